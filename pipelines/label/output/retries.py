"""Rows with `engine_error` that later commits answer.

A commit that answers them writes their ids into `retried/part-k.parquet`. From then on, the rejects of these ids in earlier commits do not
count. `compact` rewrites each part with such rejects once, when the labels are complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.data.reader import DataSplit
from pipelines.data.schema import REJECT
from pipelines.label.output.commits import Commit, part_number
from pipelines.label.output.counts import Counts
from pipelines.label.output.id_index import Keys, id_keys
from pipelines.label.output.key_files import NO_ROWS, RETRIED, SPLITS, KeyRows, committed_keys, keys_of
from pipelines.label.output.parts import FOLDERS, RETRIED_FOLDER, part_name, read_part, write_part
from pipelines.storage.store import Store

_Mask = npt.NDArray[np.bool_]


class Retried:
    """For each id that was retried, the last commit that answered it. Of one split."""

    def __init__(self, keys: Keys, commits: npt.NDArray[np.int64]) -> None:
        """
        Args:
            keys: of the retried rows of all commits.
            commits: (len(keys),) their numbers.
        """
        order = np.lexsort((commits, keys))
        self.total = len(order)
        """Retries of all commits."""
        keys, commits = keys[order], commits[order]
        last = np.append(keys[1:] != keys[:-1], [True] * bool(self.total)).astype(bool)
        self._keys, self._commits = keys[last], commits[last]

    @classmethod
    def of(cls, rows: Sequence[KeyRows]) -> Self:
        """Of rows of the kind RETRIED, of one split."""
        found = np.concatenate([NO_ROWS, *rows])
        return cls(keys_of(found), found["commit"])

    def replaces(self, keys: Keys, commits: npt.NDArray[np.int64] | int) -> _Mask:
        """(n,) True for the ids with `engine_error` that a commit after theirs answered.

        Args:
            commits: the number of each id's commit, or of all.
        """
        if not len(self._keys):
            return np.zeros(len(keys), dtype=bool)
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        found: _Mask = (self._keys[places] == keys) & (self._commits[places] > commits)
        return found


class ToRetry:
    """The ids whose last outcome is `engine_error`, of one split. 17 bytes per id."""

    def __init__(self, keys: Keys) -> None:
        self._keys = np.sort(keys)
        self._waits = np.ones(len(keys), dtype=bool)

    def __len__(self) -> int:
        return int(self._waits.sum())

    def take(self, ids: pa.ChunkedArray) -> _Mask:
        """(len(ids),) True for the ids that wait. They wait no longer."""
        if not len(self._keys) or not len(ids):
            return np.zeros(len(ids), dtype=bool)
        keys = id_keys(ids.to_pylist())
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        taken: _Mask = (self._keys[places] == keys) & self._waits[places]
        self._waits[places[taken]] = False
        return taken


def compact(store: Store, commits: list[Commit], number: int) -> list[Commit]:
    """Write the parts with replaced rows again, without these rows, and give each commit the counts of its remaining rows.

    The caller commits the result, and removes the parts that it does not name.

    Args:
        number: of the new parts, above all others.
    """
    stones = [name for commit in commits for name in commit.parts if name.startswith(f"{RETRIED_FOLDER}/")]
    if not stones:
        return commits
    rows = list(committed_keys(store, commits, [RETRIED]))
    for split in SPLITS:
        retried = Retried.of([found for name, _, found in rows if name == split])
        if retried.total:
            commits = [_without_replaced(store, commit, retried, split, number) for commit in commits]
    return [_without(commit, [name for name in commit.parts if name in stones]) for commit in commits]


def _without_replaced(store: Store, commit: Commit, retried: Retried, split: DataSplit, number: int) -> Commit:
    folder = FOLDERS[split, False][0]
    removed = 0
    for name in [name for name in commit.parts if name.startswith(f"{folder}/")]:
        rows = read_part(store, name, REJECT.names, commit.files.get(name))
        failed = pc.equal(rows["reason"], "engine_error").to_numpy()
        replaced = failed & retried.replaces(id_keys(rows["id"].to_pylist()), commit.number)
        if not replaced.any():
            continue
        removed += int(replaced.sum())
        commit = _without(commit, [name])
        kept = rows.filter(pa.array(~replaced))
        if len(kept):
            new = part_name(folder, part_number(name), number)
            file = write_part(store, new, kept)
            commit.parts[new], commit.files[new] = file.rows, file
    retries = _retries_of(store, commit, split)
    return _with_engine_errors(commit, split, retries - removed)


def _retries_of(store: Store, commit: Commit, split: str) -> int:
    stones = [name for name in commit.parts if name.startswith(f"{RETRIED_FOLDER}/")]
    tables = (read_part(store, name, ["split"], commit.files.get(name)) for name in stones)
    return sum(pc.sum(pc.equal(rows["split"], split)).as_py() or 0 for rows in tables)


def _with_engine_errors(commit: Commit, split: str, more: int) -> Commit:
    counts = commit.counts
    add_engine_errors(counts, split, more)
    return commit.model_copy(update={"tally": counts.as_json()})


def add_engine_errors(counts: Counts, split: str, more: int) -> None:
    """Count more or fewer rows of a split as `engine_error`."""
    if more:
        (counts.rejected if split == "train" else counts.heldout_rejected)["engine_error"] += more


def _without(commit: Commit, names: list[str]) -> Commit:
    parts = {name: rows for name, rows in commit.parts.items() if name not in names}
    files = {name: file for name, file in commit.files.items() if name not in names}
    return commit.model_copy(update={"parts": parts, "files": files})
