"""Which tasks there are, and how a user's own task file is loaded.

A task file is the user's own code, named by its path in the run file; it defines one subclass of `Task`. Its source travels
with the spec, so that workers which do not see the file run the same task.
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
    """The spec of a task named in a run file. Raises UserError where there is no such task."""
    if name in BUILT_IN:
        return TaskSpec(name, dict(options or {}))
    path = Path(name).expanduser()
    if path.suffix != ".py":
        raise UserError(
            f"task {name}",
            f"there is no such task; built in: {', '.join(BUILT_IN)}",
            "Name one of them, or the path of a task file (*.py).",
        )
    if not path.is_file():
        raise UserError(f"task {name}", "there is no such file", "Give the path of an existing task file.")
    return TaskSpec(name, dict(options or {}), path.read_text(encoding="utf-8"))


def load_task(spec: TaskSpec) -> Task:
    """The task of a spec. Raises UserError where there is none of its name, its file defines none or fails, or its options are wrong."""
    if spec.source is None:
        if spec.name not in BUILT_IN:  # of a student or of labels that another version made
            rule = f"it is unknown here; built in: {', '.join(BUILT_IN)}"
            raise UserError(f"task {spec.name}", rule, "Use the version of Raystill that made it.")
        module_name, _, class_name = BUILT_IN[spec.name].partition(":")
        kind: type[Task] = getattr(importlib.import_module(module_name), class_name)
        return kind(spec.options)
    module = types.ModuleType("raystill_user_task")
    try:
        exec(compile(spec.source, spec.name, "exec"), module.__dict__)  # noqa: S102 - the user's own file, named by path
    except Exception as error:
        raise UserError(f"task {spec.name}", f"the file fails ({type(error).__name__}: {error})", "Mend it.") from error
    found = [
        v
        for v in vars(module).values()
        if isinstance(v, type) and issubclass(v, Task) and v.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise UserError(f"task {spec.name}", f"it defines {len(found)} subclasses of Task, one is needed", "Mend it.")
    try:
        return found[0](spec.options)
    except UserError:
        raise
    except Exception as error:
        rule = f"{found[0].__name__} cannot be made of its options ({type(error).__name__}: {error})"
        raise UserError(f"task {spec.name}", rule, "Mend the file, or its task_options.") from error
