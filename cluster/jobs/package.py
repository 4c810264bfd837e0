"""A job's working directory: a run file whose paths mean the same on the cluster, and the files that it needs.

    run.yaml        what the run file sets, with overrides
    files/task.py   the task file and the few-shot examples, if the run names any

All other paths must be visible to every node: URIs, or below a folder that is named as shared.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pipelines.config import RunConfig
from pipelines.config.paths import absolute, get, is_path, names_a_model_here, put
from pipelines.errors import UserError

RUN_FILE = "run.yaml"
_FILES = "files"
_LISTED = 5
COPIED = ("task", "teacher.shots")
"""Keys whose files are part of what runs, and small."""
_KEPT = (
    "output", "corpus.train", "corpus.validation", "corpus.test", "teacher.model", "teacher.outputs", "student.model",
    "compare.students", "serving.keys.file",
)  # fmt: skip


@dataclass
class _Visibility:
    """Which paths every node sees. Collects the others."""

    shared: Sequence[str]
    same_machine: bool
    hidden: list[str] = field(default_factory=list)
    """`KEY VALUE` of each path that only this machine has."""

    def resolve(self, value: Any, key: str) -> Any:
        """The value as the cluster needs it; lists item by item."""
        if isinstance(value, list):
            return [self.resolve(one, key) for one in value]
        if not is_path(value, key):
            return value
        path = absolute(value)
        if not self.same_machine and not any(Path(path).is_relative_to(Path(one).absolute()) for one in self.shared):
            self.hidden.append(f"{key} {value}")
        return path


def write_package(run: RunConfig, folder: Path, *, shared: Sequence[str], same_machine: bool) -> None:
    """Fill a job's working directory.

    Args:
        shared: folders that every node has under the same path.
        same_machine: every node runs on this machine, so every path is visible.

    Raises:
        UserError: only this machine has a path of the run, or a file to copy is missing.
    """
    # Only what is set: the image's version may not know every key, and has its own defaults.
    tree = run.model_dump(mode="json", exclude_unset=True)
    for key in COPIED:
        value = get(tree, key)
        if is_path(value, key):
            put(tree, key, _copy(Path(absolute(value)), folder, f"{key} {value}"))
    visibility = _Visibility(shared, same_machine)
    for key in _KEPT:
        value = get(tree, key)
        if value is not None and (key != "teacher.model" or names_a_model_here(tree)):
            put(tree, key, visibility.resolve(value, key))
    if hidden := visibility.hidden:
        rule = f"only this machine has {', '.join(hidden[:_LISTED])}{', ...' if hidden[_LISTED:] else ''}"
        remedy = (
            "Move them to an object store (s3://...), or to storage that all nodes mount, and name it: --shared FOLDER."
        )
        raise UserError("paths of the run", rule, remedy)
    (folder / RUN_FILE).write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _copy(source: Path, folder: Path, name: str) -> str:
    """Copy a file into the package. Returns its path there."""
    if not source.is_file():
        raise UserError(name, "there is no such file", "Give the path of an existing file.")
    (folder / _FILES).mkdir(exist_ok=True)
    shutil.copyfile(source, folder / _FILES / source.name)
    return f"{_FILES}/{source.name}"
