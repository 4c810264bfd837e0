"""The teachers, by the value of `teacher.engine`. A further teacher is one entry here, and its name in `TeacherConfig.engine`."""

from __future__ import annotations

import pkgutil
from typing import cast

from pipelines.label.teachers.base import Teacher

TEACHERS = {
    "vllm": "pipelines.label.teachers.vllm:VllmTeacher",
    "openai": "pipelines.label.teachers.openai:OpenaiTeacher",
    "replay": "pipelines.label.teachers.replay:ReplayTeacher",
    "echo": "pipelines.label.teachers.echo:EchoTeacher",
}
"""module:class. Imported on use."""


def teacher_class(engine: str) -> type[Teacher]:
    """The class behind `teacher.engine`."""
    return cast(type[Teacher], pkgutil.resolve_name(TEACHERS[engine]))
