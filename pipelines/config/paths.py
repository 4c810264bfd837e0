"""Which keys of a run file name paths. A relative one is meant from where the command runs; workers of a cluster run elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

INPUTS = (
    "task", "corpus.train", "corpus.validation", "corpus.test", "teacher.model", "teacher.outputs", "teacher.shots", "student.model",
    "compare.students",
)  # fmt: skip


def with_absolute_inputs(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A run's tree with the local paths of its inputs in full. What is no text is left to the validation."""
    result = deepcopy(dict(tree))
    for key in INPUTS:
        value = get(result, key)
        if key == "teacher.model" and not names_a_model_here(result):
            continue
        if isinstance(value, list):
            put(result, key, [_absolute(one, key) for one in value])
        elif value is not None:
            put(result, key, _absolute(value, key))
    return result


def is_path(value: Any, key: str) -> bool:
    """Whether a value is a path of a local disk. Models may be hub ids: those that are no folder here and do not look like one."""
    if not isinstance(value, str) or not value:
        return False
    if "://" in value:
        return value.startswith("file://")
    if key == "task":
        return value.endswith(".py")
    if not key.endswith((".model", ".students")):
        return True
    return value.startswith(("/", "./", "../", "~")) or Path(value).is_dir()


def names_a_model_here(tree: Mapping[str, Any]) -> bool:
    """Whether `teacher.model` is a folder or hub id. Of engine openai it is the endpoint's name for it, whatever lies here."""
    return bool(get(tree, "teacher.engine") != "openai")


def absolute(value: str) -> str:
    """A local path in full."""
    return str(Path(value.removeprefix("file://")).expanduser().absolute())


def get(tree: Mapping[str, Any], key: str) -> Any:
    """The value of `section.key`, None where there is none."""
    found: Any = tree
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set the value of a key that there is."""
    *sections, last = key.split(".")
    for section in sections:
        tree = tree[section]
    tree[last] = value


def _absolute(value: Any, key: str) -> Any:
    return absolute(value) if is_path(value, key) else value
