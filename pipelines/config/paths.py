"""The keys of a run file that name paths. Relative ones are relative to the run file, those of `--set` to the shell's folder.

0.1 read all of them relative to the shell's folder. A path that exists only there is refused, with both readings.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from pipelines.errors import UserError
from pipelines.storage.cache_folder import embedded_model_folder

Tree = dict[str, Any]
"""A run file as YAML gives it, before validation."""
PATHS = (
    "output", "task", "corpus.train", "corpus.validation", "corpus.test", "teacher.model", "teacher.outputs", "teacher.shots",
    "student.model", "compare.students", "labelling.reuse", "teacher.vllm.lora", "serving.keys.file",
)  # fmt: skip


EMBEDDED = "embedded"
"""A model's name in a run file: the embedded teacher, which the first command that needs it downloads."""
_ARTIFACTS = ("labels", "student", "report", "compare")


def with_absolute_paths(tree: Tree, folder: Path, overridden: frozenset[str] = frozenset()) -> Tree:
    """A copy of the tree with absolute local paths. Values that are no text are left for validation.

    Args:
        folder: of the run file.
        overridden: keys that `--set` names, their sections or both; their paths are relative to the shell's folder.

    Raises:
        UserError: a path of the run file exists relative to the shell's folder only.
    """
    result = deepcopy(tree)
    for key in PATHS:
        value = get(result, key)
        if value is None or (key == "teacher.model" and not names_a_model_here(result)):
            continue
        base = Path.cwd() if any(f"{key}.".startswith(f"{one}.") for one in overridden) else folder.absolute()
        if isinstance(value, list):
            put(result, key, [_absolute(one, key, base) for one in value])
        else:
            put(result, key, _absolute(value, key, base))
    return result


def is_path(value: object, key: str, folder: Path = Path()) -> bool:
    """True for a path on a local disk. A model is a hub id unless it looks like a path or is a folder, relative to `folder`."""
    if not isinstance(value, str) or not value:
        return False
    if "://" in value:
        return value.startswith("file://")
    if key == "task":
        return value.endswith(".py")
    if not key.endswith((".model", ".students", ".lora")):
        return True
    return value.startswith(("/", "./", "../", "~")) or (folder / value).is_dir()


def names_a_model_here(tree: Tree) -> bool:
    """True if `teacher.model` is a folder or hub id. For engine openai it is the endpoint's name of the model."""
    return bool(get(tree, "teacher.engine") != "openai")


def absolute(value: str, folder: Path = Path()) -> str:
    """The absolute form of a local path, which is relative to `folder`."""
    path = (folder / Path(value.removeprefix("file://")).expanduser()).absolute()
    plain = Path(os.path.normpath(path))  # another folder if `..` follows a symbolic link
    return str(plain if plain.resolve() == path.resolve() else path)


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


def _absolute(value: object, key: str, folder: Path) -> object:
    here = Path.cwd()
    if value == EMBEDDED and key.endswith((".model", ".students")) and not (folder / EMBEDDED).is_dir():
        return str(embedded_model_folder())
    if not is_path(value, key, folder):
        # A hub id has the form of a relative folder.
        if is_path(value, key, here) and "://" not in str(value):
            _refuse_reading_of_0_1(str(value), key, folder)
        return value
    path, before = absolute(str(value), folder), absolute(str(value), here)
    if path != before and not _exists(path, key) and _exists(before, key):
        _refuse_reading_of_0_1(str(value), key, folder)
    return path


def _exists(path: str, key: str) -> bool:
    if key == "output":
        return any((Path(path) / name).is_dir() for name in _ARTIFACTS)
    return Path(path).exists() or next(glob.iglob(path, recursive=True), None) is not None


def _refuse_reading_of_0_1(value: str, key: str, folder: Path) -> None:
    read, before = absolute(value, folder), absolute(value)
    rule = f"paths in a run file are relative to its folder; {read} does not exist, and {before} does, which 0.1 used"
    remedy = f"Write {before}. Or use --set {key}=..., whose paths are relative to the shell's folder."
    raise UserError(f"{key} {value}", rule, remedy)
