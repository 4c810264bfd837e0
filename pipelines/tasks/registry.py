"""Registry of built-in tasks, and loading of a user's task file.

A task file is Python code of the user, named by path in the run file. It defines one subclass of `Task`. The spec carries its source,
so that workers without access to the file run the same task.
"""

from __future__ import annotations

import importlib
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.errors import UserError
from pipelines.tasks.base import Shot, Task, TaskSpec
from pipelines.tasks.failures import described

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
    try:
        return TaskSpec(name, dict(options or {}), path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"task {name}", f"not UTF-8 (byte {error.start})", "Save the file as UTF-8.") from error


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
    kind = _task_class(spec.name, spec.source)
    try:
        task = kind(spec.options)
    except UserError:
        raise
    except Exception as error:
        rule = f"{kind.__name__} does not accept its options ({_failure(error, spec.name)})"
        raise UserError(f"task {spec.name}", rule, "Correct the file or task_options.") from error
    _check_attributes(task, spec.name)
    return task


def _check_attributes(task: Task, name: str) -> None:
    """Raise UserError unless a user's task has the attributes that every task has."""
    rules: dict[str, tuple[Callable[[Any], bool], str]] = {
        "name": (_is_text, "a text"),
        "version": (_is_text, "a text, such as '1'"),
        "parser": (_is_text, "a text, such as '1'"),
        "required": (_are_texts, "a tuple of field names"),
        "labels": (lambda value: value is None or _are_texts(value), "a tuple of texts, or None"),
        "instruction": (lambda value: isinstance(value, str), "a text"),
        "shots": (lambda value: _are(value, Shot), "a tuple of Shot(question, answer)"),
    }
    for attribute, (is_valid, wanted) in rules.items():
        try:
            value = getattr(task, attribute)
        except Exception as error:
            problem = "is missing" if isinstance(error, AttributeError) else f"fails ({_failure(error, name)})"
            raise UserError(f"task {name}", f"`{attribute}` {problem}", f"Set it: {wanted}.") from error
        if not is_valid(value):
            rule = f"`{attribute}` is {value!r:.80}, must be {wanted}"
            raise UserError(f"task {name}", rule, "Correct the file.")


def _failure(error: BaseException, name: str) -> str:
    """An error of the task file, with its line unless the error is of the file as a whole."""
    frames = traceback.extract_tb(error.__traceback__)
    return described(error) if frames and frames[-1].filename == name else f"{type(error).__name__}: {error}"


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _are(value: object, kind: type) -> bool:
    return isinstance(value, tuple | list) and all(isinstance(one, kind) for one in value)


def _are_texts(value: object) -> bool:
    return _are(value, str)


def _task_class(name: str, source: str) -> type[Task]:
    """The subclass of Task that a task file defines. Raises UserError."""
    module = types.ModuleType("raystill_user_task")
    try:
        exec(compile(source, name, "exec"), module.__dict__)  # noqa: S102 - the user's own file, named by path
    except ImportError as error:
        rule = f"the file fails ({_failure(error, name)})"
        remedy = "Install the module on all nodes. Workers get the task file alone, no module beside it."
        raise UserError(f"task {name}", rule, remedy) from error
    except (Exception, SystemExit) as error:
        rule = f"the file fails ({_failure(error, name)})"
        raise UserError(f"task {name}", rule, "Correct the file.") from error
    classes = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Task)]
    own = [value for value in classes if value.__module__ == module.__name__]
    if len(own) != 1:
        rule = f"it defines {len(own)} subclasses of Task, must be one"
        raise UserError(f"task {name}", rule, "Correct the file.")
    return own[0]
