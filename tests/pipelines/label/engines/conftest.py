from tests.support.teacher_actors import cluster

__all__ = ["cluster"]
