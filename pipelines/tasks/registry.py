"""Registry of built-in tasks, and loading of a user's task file.

A task file is Python code of the user, named by path in the run file. It defines one subclass of `Task`. The spec carries its source,
so that workers without access to the file run the same task.
"""

from __future__ import annotations

import importlib
import types
from pathlib import Path

from pipelines.errors import UserError
from pipelines.tasks.base import Task, TaskSpec

BUILT_IN = {
    "arithmetic": "pipelines.tasks.arithmetic:Arithmetic",
    "multiple-choice": "pipelines.tasks.multiple_choice:MultipleChoice",
    "nli": "pipelines.tasks.nli:NaturalLanguageInference",
    "grade-school-math": "pipelines.tasks.grade_school_math:GradeSchoolMath",
    "classification": "pipelines.tasks.classification:Classification",
}


def task_spec(name: str, options: dict[str, object] | None = None) -> TaskSpec:
    """Spec of a task named in a run file. Raises UserError if the task does not exist."""
    if name in BUILT_IN:
        return TaskSpec(name, dict(options or {}))
    path = Path(name).expanduser()
    if path.suffix != ".py":
        rule = f"unknown task; built in: {', '.join(BUILT_IN)}"
        raise UserError(f"task {name}", rule, "Name one of these, or the path of a task file (*.py).")
    if not path.is_file():
        raise UserError(f"task {name}", "the file does not exist", "Give the path of an existing task file.")
    return TaskSpec(name, dict(options or {}), path.read_text(encoding="utf-8"))


def load_task(spec: TaskSpec) -> Task:
    """Load a task.

    Raises:
        UserError: the name is unknown, the task file fails or does not define one task, or the options are invalid.
    """
    if spec.source is None:
        if spec.name not in BUILT_IN:  # from a student or labels of another version
            rule = f"unknown task; built in: {', '.join(BUILT_IN)}"
            raise UserError(f"task {spec.name}", rule, "Use the version of Raystill that made the artifact.")
        module_name, _, class_name = BUILT_IN[spec.name].partition(":")
        built_in: type[Task] = getattr(importlib.import_module(module_name), class_name)
        return built_in(spec.options)
    task = _task_class(spec.name, spec.source)
    try:
        return task(spec.options)
    except UserError:
        raise
    except Exception as error:
        rule = f"{task.__name__} does not accept its options ({type(error).__name__}: {error})"
        raise UserError(f"task {spec.name}", rule, "Correct the file or task_options.") from error


def _task_class(name: str, source: str) -> type[Task]:
    """The subclass of Task that a task file defines. Raises UserError."""
    module = types.ModuleType("raystill_user_task")
    try:
        exec(compile(source, name, "exec"), module.__dict__)  # noqa: S102 - the user's own file, named by path
    except Exception as error:
        rule = f"the file fails ({type(error).__name__}: {error})"
        raise UserError(f"task {name}", rule, "Correct the file.") from error
    classes = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Task)]
    own = [value for value in classes if value.__module__ == module.__name__]
    if len(own) != 1:
        rule = f"it defines {len(own)} subclasses of Task, must be one"
        raise UserError(f"task {name}", rule, "Correct the file.")
    return own[0]
