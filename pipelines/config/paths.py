"""The keys of a run file that name paths. Relative ones are relative to the command's folder; workers of a cluster have another."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

Tree = dict[str, Any]
"""A run file as YAML gives it, before validation."""
INPUTS = (
    "task", "corpus.train", "corpus.validation", "corpus.test", "teacher.model", "teacher.outputs", "teacher.shots", "student.model",
    "compare.students", "labelling.reuse",
)  # fmt: skip


def with_absolute_inputs(tree: Tree) -> Tree:
    """A copy of the tree with absolute local paths of inputs. Values that are no text are left for validation."""
    result = deepcopy(tree)
    for key in INPUTS:
        value = get(result, key)
        if key == "teacher.model" and not names_a_model_here(result):
            continue
        if isinstance(value, list):
            put(result, key, [_absolute(one, key) for one in value])
        elif value is not None:
            put(result, key, _absolute(value, key))
    return result


def is_path(value: object, key: str) -> bool:
    """True for a path on a local disk. A model is a hub id unless it is a folder here or looks like a path."""
    if not isinstance(value, str) or not value:
        return False
    if "://" in value:
        return value.startswith("file://")
    if key == "task":
        return value.endswith(".py")
    if not key.endswith((".model", ".students")):
        return True
    return value.startswith(("/", "./", "../", "~")) or Path(value).is_dir()


def names_a_model_here(tree: Tree) -> bool:
    """True if `teacher.model` is a folder or hub id. For engine openai it is the endpoint's name of the model."""
    return bool(get(tree, "teacher.engine") != "openai")


def absolute(value: str) -> str:
    """The absolute form of a local path."""
    return str(Path(value.removeprefix("file://")).expanduser().absolute())


def get(tree: Tree, key: str) -> Any:
    """The value of `section.key`, None if it is not set."""
    found: Any = tree
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def put(tree: Tree, key: str, value: object) -> None:
    """Set an existing `section.key`."""
    *sections, last = key.split(".")
    for section in sections:
        tree = tree[section]
    tree[last] = value


def _absolute(value: object, key: str) -> object:
    return absolute(str(value)) if is_path(value, key) else value
