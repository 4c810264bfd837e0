"""What the fault tests share with the integration tests: the embedded teacher."""

from tests.integration.conftest import teacher_folder

__all__ = ["teacher_folder"]
