"""The ids of committed rows, so that a run that resumes reads few files: `commits/keys-FIRST-LAST.bin`.

One file has the rows of the commits FIRST to LAST: 21 bytes for each row that the teacher answered or no engine could answer, behind the
SHA-256 of these bytes. Rows of commits without a usable file are read from their parts. Finished labels have no such files.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.data.reader import DataSplit
from pipelines.label.output.commits import COMMITS, Commit
from pipelines.label.output.id_index import KEY_BYTES, Keys, id_keys
from pipelines.label.output.parts import FOLDERS, RETRIED_FOLDER, delete_all, in_parallel, read_part
from pipelines.storage.store import Store

DONE, FAILED, RETRIED = 0, 1, 2
"""Kinds of rows: an answered one, one with `engine_error`, and one that replaces an `engine_error`."""
SPLITS: tuple[DataSplit, ...] = ("train", "heldout")
KeyRows = npt.NDArray[Any]
"""(n,) of _ROW."""
_ROW = np.dtype([("commit", "<i4"), ("kind", "u1"), ("key", f"S{KEY_BYTES}")])
NO_ROWS: KeyRows = np.empty(0, _ROW)
_NAME = re.compile(rf"{COMMITS}/keys-(\d+)-(\d+)\.bin")
_SCAN_REASONS = ("bad_input", "duplicate", "near_duplicate")
_DIGEST_BYTES = 32
_FILES_AT_A_TIME = 4
"""Twice as many are in memory, each of about 20 MB."""


@dataclass(frozen=True)
class KeyFile:
    """One file, by its name."""

    name: str
    first: int
    last: int


def key_rows(number: int, outcomes: pa.Table, retried: pa.Table) -> KeyRows:
    """The rows of a commit.

    Args:
        outcomes: of outcomes.OUTCOME; the columns split, id and reason are enough.
        retried: (split, id) of rows that replace an `engine_error`.

    Rejects of the scan have no row: readers skip them by their piece, and a `duplicate` or an unreadable row may have the id of a row
    that still needs a label.
    """
    outcomes = outcomes.select(["split", "id", "reason"]).combine_chunks()
    reason = outcomes["reason"]
    failed = pc.fill_null(pc.equal(reason, "engine_error"), False)
    scanned = pc.is_in(reason, pa.array(_SCAN_REASONS))
    done = pc.invert(pc.or_(failed, scanned))
    found = [
        _rows(number, split, kind, table.filter(pc.equal(table["split"], split))["id"])
        for table, kind in ((outcomes.filter(done), DONE), (outcomes.filter(failed), FAILED), (retried, RETRIED))
        for split in SPLITS
    ]
    return np.concatenate(found)


def write_keys(store: Store, first: int, last: int, rows: Sequence[KeyRows]) -> None:
    """Write the rows of some commits."""
    data = np.concatenate([NO_ROWS, *rows]).tobytes()
    store.write(f"{COMMITS}/keys-{first:06d}-{last:06d}.bin", hashlib.sha256(data).digest() + data)


def remove_keys(store: Store) -> None:
    """Remove all files. The rows are then read from parts."""
    delete_all(store, [file.name for file in _files(store)])


def committed_keys(
    store: Store, commits: Sequence[Commit], kinds: Iterable[int]
) -> Iterator[tuple[DataSplit, int, KeyRows]]:
    """(split, kind, rows) of these commits and kinds, some thousand at a time, in no order."""
    numbers, covered = np.array(sorted(commit.number for commit in commits)), set[int]()
    wanted = list(kinds)
    files = _files(store)
    for file, rows in zip(
        files, in_parallel(lambda file: _read(store, file.name), files, _FILES_AT_A_TIME), strict=True
    ):
        if rows is None:
            continue
        covered.update(range(file.first, file.last + 1))
        yield from _split(rows[np.isin(rows["commit"], numbers)], wanted)
    rest = [commit for commit in commits if commit.number not in covered]
    for rows in in_parallel(lambda commit: _of_parts(store, commit, wanted), rest):
        yield from _split(rows, wanted)


def _split(rows: KeyRows, kinds: Sequence[int]) -> Iterator[tuple[DataSplit, int, KeyRows]]:
    for kind in kinds:
        for index, split in enumerate(SPLITS):
            found = rows[rows["kind"] == 2 * kind + index]
            if len(found):
                yield split, kind, found


def _files(store: Store) -> list[KeyFile]:
    found = [(name, _NAME.fullmatch(name)) for name in store.files(COMMITS)]
    return [KeyFile(name, int(match[1]), int(match[2])) for name, match in found if match]


def _read(store: Store, name: str) -> KeyRows | None:
    """The rows of a file. None if it is damaged."""
    data = store.read(name)
    digest, rows = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    return np.frombuffer(rows, _ROW) if hashlib.sha256(rows).digest() == digest else None


def _of_parts(store: Store, commit: Commit, kinds: Sequence[int]) -> KeyRows:
    found = [NO_ROWS]
    for (split, is_accepted), (folder, _) in FOLDERS.items():
        for name in (name for name in commit.parts if name.rpartition("/")[0] == folder):
            if is_accepted and DONE not in kinds:
                continue
            columns = ["id"] if is_accepted else ["id", "reason"]
            rows = read_part(store, name, columns, commit.files.get(name))
            table = pa.table(
                {
                    "split": pa.array([split] * len(rows)),
                    "id": rows["id"],
                    "reason": pa.nulls(len(rows), pa.string()) if is_accepted else rows["reason"],
                }
            )
            found.append(key_rows(commit.number, table, table.slice(0, 0)))
    for name in (name for name in commit.parts if name.startswith(f"{RETRIED_FOLDER}/")):
        rows = read_part(store, name, ["split", "id"], commit.files.get(name))
        found += [
            _rows(commit.number, split, RETRIED, rows.filter(pc.equal(rows["split"], split))["id"]) for split in SPLITS
        ]
    return np.concatenate(found)


def _rows(number: int, split: DataSplit, kind: int, ids: pa.ChunkedArray) -> KeyRows:
    rows = np.empty(len(ids), _ROW)
    rows["commit"], rows["kind"] = number, 2 * kind + SPLITS.index(split)
    rows["key"] = id_keys(ids.to_pylist())
    return rows


def keys_of(rows: KeyRows) -> Keys:
    """(n,) the keys alone."""
    return np.ascontiguousarray(rows["key"])
