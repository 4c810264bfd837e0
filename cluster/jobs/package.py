"""What a job takes along to a cluster: a run file in which every path means the same there as here, and the files that travel with it.

    run.yaml            what the run file sets, overrides applied
    files/task.py       the task file and the few-shot examples, if the run names any: small, and part of what is run
    cluster/ pipelines/ serving/    our code, unless the cluster's image has it

Everything else that is a path stays where it is, and must be where every node sees it: a URI, or below a folder that is named as shared.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from pipelines.config import RunConfig
from pipelines.config.paths import absolute, get, is_path, names_a_model_here, put
from pipelines.errors import UserError

RUN_FILE = "run.yaml"
_FILES = "files"
_LISTED = 5
_TRAVEL = ("task", "teacher.shots")
_STAY = (
    "output", "corpus.train", "corpus.validation", "corpus.test", "teacher.model", "teacher.outputs", "student.model",
    "compare.students", "serving.keys.file",
)  # fmt: skip


def write_package(run: RunConfig, folder: Path, *, shared: Sequence[str], same_machine: bool) -> None:
    """Fill a folder that becomes the job's working directory.

    Args:
        shared: folders that every node of the cluster has under the same path.
        same_machine: all nodes run on this machine: every path is shared.

    Raises:
        UserError: a path of the run is one that only this machine has, or a file that should travel is not there.
    """
    # What is not set is the cluster's to know: an image that is older has no keys of tomorrow, and its own defaults.
    tree = run.model_dump(mode="json", exclude_unset=True)
    for key in _TRAVEL:
        value = get(tree, key)
        if is_path(value, key):
            source = Path(absolute(value))
            if not source.is_file():
                raise UserError(f"{key} {value}", "there is no such file", "Give the path of an existing file.")
            (folder / _FILES).mkdir(exist_ok=True)
            shutil.copyfile(source, folder / _FILES / source.name)
            put(tree, key, f"{_FILES}/{source.name}")
    only_here: list[str] = []
    for key in _STAY:
        value = get(tree, key)
        if value is None or (key == "teacher.model" and not names_a_model_here(tree)):
            continue
        placed = [
            _placed(one, key, shared, same_machine, only_here)
            for one in (value if isinstance(value, list) else [value])
        ]
        put(tree, key, placed if isinstance(value, list) else placed[0])
    if only_here:
        rule = f"only this machine has {', '.join(only_here[:_LISTED])}{', ...' if only_here[_LISTED:] else ''}"
        remedy = (
            "Put them into an object store (s3://...), or on storage that all nodes mount and name it: --shared FOLDER."
        )
        raise UserError("paths of the run", rule, remedy)
    (folder / RUN_FILE).write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _placed(value: Any, key: str, shared: Sequence[str], same_machine: bool, only_here: list[str]) -> Any:
    """A value of the run as it is in the cluster; what is none there is added to `only_here`."""
    if not is_path(value, key):
        return value
    path = absolute(value)
    if not same_machine and not any(Path(path).is_relative_to(Path(folder).absolute()) for folder in shared):
        only_here.append(f"{key} {value}")
    return path
