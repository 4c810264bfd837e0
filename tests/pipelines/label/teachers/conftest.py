from tests.support.teacher_endpoint import endpoint

__all__ = ["endpoint"]
