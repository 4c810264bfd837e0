"""An index of stored answers: key -> file and row. 16 bytes per answer, shared by the workers of a node through Ray's object store.

It has 8 of the 16 bytes of each key. A lookup compares the whole key once it has read the row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.config import READER_CPUS
from pipelines.data.schema import TEXT
from pipelines.label.stored.keys import KEY_BYTES
from pipelines.label.stored.sources import TextFile

Places = npt.NDArray[np.int64]
"""(index of the file << 32) | row in the file; -1: none."""
Halves = npt.NDArray[np.uint64]
_SHIFT = 32
_ROW_MASK: int = 2**_SHIFT - 1
_FILES_PER_TASK = 64
_VERSION = b"version"


class AnswerIndex(NamedTuple):
    """Of the answers in a list of files. Of several answers with the same key, it has the first."""

    halves: Halves
    """Sorted, without repetition."""
    places: Places

    def find(self, keys: Sequence[bytes]) -> Places:
        """(len(keys),) the place of each key, -1 if it is in no file."""
        wanted = _halves(b"".join(keys))
        if not len(self.halves) or not len(wanted):
            return np.full(len(wanted), -1, np.int64)
        at = np.minimum(np.searchsorted(self.halves, wanted), len(self.halves) - 1)
        return np.where(self.halves[at] == wanted, self.places[at], -1)


class Problem(NamedTuple):
    """A file that cannot be used."""

    file: str
    rule: str


def file_of(place: int) -> int:
    """The index of the file of a place."""
    return place >> _SHIFT


def row_of(place: int) -> int:
    """The row of a place in its file."""
    return place & _ROW_MASK


def build_index(files: Sequence[TextFile]) -> tuple[Any, list[Problem]]:
    """(reference of an AnswerIndex in Ray's object store, files that are damaged). Reads every file in full, in parallel."""
    import ray

    read = ray.remote(num_cpus=READER_CPUS, num_returns=2)(_read_keys)
    chunks = range(0, len(files), _FILES_PER_TASK)
    found = [read.remote(files[first : first + _FILES_PER_TASK], first) for first in chunks]
    index = ray.remote(num_cpus=READER_CPUS)(_merged).remote(*(part for part, _ in found))
    return index, [problem for part in ray.get([problems for _, problems in found]) for problem in part]


def stored_keys(files: Iterable[TextFile], wanted: Sequence[bytes]) -> set[bytes]:
    """Those of the keys that a file has. Reads the keys alone, one file after the other, without Ray. Damaged files have none."""
    sought, found = np.unique(_halves(b"".join(wanted))), [np.empty(0, np.uint64)]
    for file in files:
        try:
            halves = _keys_of(file, ["key"])
        except (OSError, pa.ArrowException, _WrongVersionError):
            continue
        found.append(np.intersect1d(sought, halves))
    has = np.isin(_halves(b"".join(wanted)), np.concatenate(found))
    return {key for key, is_there in zip(wanted, has.tolist(), strict=True) if is_there}


def open_texts(file: TextFile) -> pq.ParquetFile:
    """Open a file. Reading a damaged page of it raises OSError."""
    stream = file.store.fs.open_input_file(file.store.path(file.name))
    return pq.ParquetFile(stream, page_checksum_verification=True)


class _WrongVersionError(Exception):
    """Another version of Raystill wrote the file."""


def _read_keys(files: Sequence[TextFile], first: int) -> tuple[AnswerIndex, list[Problem]]:
    """`first`: index of the first of these files."""
    halves, places, problems = [np.empty(0, np.uint64)], [np.empty(0, np.int64)], []
    for index, file in enumerate(files, first):
        try:
            found = _keys_of(file, TEXT.names)
        except (OSError, pa.ArrowException, _WrongVersionError) as error:
            problems.append(Problem(file.shown, " ".join(str(error).split())[:200]))
            continue
        halves.append(found)
        places.append(np.arange(len(found), dtype=np.int64) + (index << _SHIFT))
    return AnswerIndex(np.concatenate(halves), np.concatenate(places)), problems


def _keys_of(file: TextFile, columns: list[str]) -> Halves:
    """The halves of a file's keys. `columns`: those that are read, and so checked."""
    with open_texts(file) as parquet:
        version = (parquet.schema_arrow.metadata or {}).get(_VERSION, b"?")
        if version != (TEXT.metadata or {})[_VERSION]:
            raise _WrongVersionError(f"version {version.decode(errors='replace')} of its schema")
        keys = [np.empty(0, np.uint64)]
        for group in range(parquet.num_row_groups):
            column = parquet.read_row_group(group, columns=columns)["key"].combine_chunks()
            keys.append(_halves(b"".join(column.to_pylist())))
    return np.concatenate(keys)


def _merged(*parts: AnswerIndex) -> AnswerIndex:
    all_halves = np.concatenate([np.empty(0, np.uint64), *(part.halves for part in parts)])
    places = np.concatenate([np.empty(0, np.int64), *(part.places for part in parts)])
    halves, first = np.unique(all_halves, return_index=True)
    return AnswerIndex(halves, places[first])


def _halves(keys: bytes) -> Halves:
    """The first 8 bytes of each key."""
    halves: Halves = np.frombuffer(keys, dtype=np.uint64).reshape(-1, KEY_BYTES // 8)[:, 0]
    return halves
