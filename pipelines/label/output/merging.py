"""Complete labels in few parts.

Commits that follow each other become one while their largest folder has at most 128 MB. Each folder then has one part, with row groups of
65,536 rows (texts and log-probabilities: their own settings), zstd and statistics. Groups are written in parallel. Each holds one part of a
commit in memory, and the rows of one row group.

The caller commits the result, and removes the parts that it does not name. A kill before that leaves the old parts as they were.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.data.label_manifest import PartFile
from pipelines.label.output.commits import Commit, part_number
from pipelines.label.output.counts import Counts
from pipelines.label.output.parts import in_parallel, parquet_settings, part_name, read_part
from pipelines.storage.store import Store

PART_BYTES = 128_000_000
"""Of a folder's part, at most, unless one commit alone has more."""
_ROW_GROUP_ROWS = 65_536
_AT_THE_SAME_TIME = 4
_REQUESTS = 16
_AHEAD_BYTES = 4_000_000
"""Of small parts, read at the same time. An object store takes as long for each as for a large one."""


def merge(store: Store, commits: Sequence[Commit], number: int) -> list[Commit]:
    """Write these commits as fewer ones. A commit that is large enough stays.

    Args:
        number: of the new parts, above all others.
    """
    with ThreadPoolExecutor(_AT_THE_SAME_TIME) as pool:
        return list(pool.map(lambda group: _merged(store, group, number), _groups(commits)))


def _groups(commits: Sequence[Commit]) -> Iterator[list[Commit]]:
    group: list[Commit] = []
    sizes: Counter[str] = Counter()
    for commit in commits:
        more = Counter({_folder(name): 0 for name in commit.parts})
        for name in commit.parts:
            # The size of files of 0.1 is not known: they are not merged.
            more[_folder(name)] += commit.files[name].bytes if name in commit.files else PART_BYTES
        if group and max((sizes + more).values(), default=0) > PART_BYTES:
            yield group
            group, sizes = [], Counter()
        group.append(commit)
        sizes += more
    if group:
        yield group


def _merged(store: Store, commits: Sequence[Commit], number: int) -> Commit:
    if len(commits) == 1:
        return commits[0]
    counts, parts, files = Counts(), dict[str, int](), dict[str, PartFile]()
    for commit in commits:
        counts.add(commit.counts)
    names: dict[str, list[str]] = {}
    for name in (name for commit in commits for name in commit.parts):
        names.setdefault(_folder(name), []).append(name)
    # One name in all folders: parts of texts and rationales are found by that of `data`.
    first = min(part_number(name) for found in names.values() for name in found) if names else 0
    for folder, found in names.items():
        merged = part_name(folder, first, number)
        written = {name: file for commit in commits for name, file in commit.files.items() if name in found}
        files[merged] = _write(store, merged, found, written, parquet_settings(folder))
        parts[merged] = files[merged].rows
    return commits[-1].model_copy(
        update={
            "previous": commits[0].previous,
            "parts": parts,
            "files": files,
            "tally": counts.as_json(),
            "scanned": [piece for commit in commits for piece in commit.scanned],
            "scan": next((commit.scan for commit in commits if commit.scan), None),
        }
    )


def _write(
    store: Store, name: str, parts: Sequence[str], written: Mapping[str, PartFile], settings: dict[str, Any]
) -> PartFile:
    """Write parts as one. Raises UserError if one has changed since it was written."""
    with store.writing(name) as file:
        hashed, rows = _Hashed(file), 0
        group_rows = settings.pop("row_group_size", _ROW_GROUP_ROWS)
        schema = _schema(store, parts, written)
        with pq.ParquetWriter(pa.PythonFile(hashed, "w"), schema, **{"compression": "zstd", **settings}) as writer:
            for table in _row_groups(store, parts, written, schema, _ROW_GROUP_ROWS):
                writer.write_table(table, row_group_size=group_rows)
                rows += len(table)
    return PartFile(rows=rows, bytes=hashed.size, sha256=hashed.digest.hexdigest())


def _schema(store: Store, parts: Sequence[str], written: Mapping[str, PartFile]) -> pa.Schema:
    """The columns of all parts."""
    try:
        return pa.unify_schemas(list(in_parallel(lambda part: _schema_of(store, part), parts)))
    except (OSError, pa.ArrowException):
        for part in parts:
            read_part(store, part, None, written.get(part))  # names the one that has changed
        raise


def _schema_of(store: Store, part: str) -> pa.Schema:
    with store.fs.open_input_file(store.path(part)) as file:
        return pq.read_schema(file)


def _row_groups(
    store: Store, parts: Sequence[str], written: Mapping[str, PartFile], schema: pa.Schema, rows: int
) -> Iterator[pa.Table]:
    """The rows of parts, some at a time. Columns that a part lacks are null."""
    waiting: list[pa.Table] = []
    largest = max((file.bytes for file in written.values()), default=_AHEAD_BYTES)
    requests = min(max(_AHEAD_BYTES // max(largest, 1), 1), _REQUESTS)
    for table in in_parallel(lambda part: read_part(store, part, None, written.get(part)), parts, requests):
        missing = [field for field in schema if field.name not in table.schema.names]
        for field in missing:
            table = table.append_column(field, pa.nulls(len(table), field.type))
        waiting.append(table.select(schema.names).cast(schema))
        if sum(map(len, waiting)) >= rows:
            together = pa.concat_tables(waiting)
            whole = len(together) // rows * rows
            yield together.slice(0, whole)
            waiting = [together.slice(whole)]
    rest = pa.concat_tables(waiting)
    if len(rest):
        yield rest


class _Hashed:
    """A file that is written through a hash."""

    closed = False

    def __init__(self, file: Any) -> None:
        self._file, self.digest, self.size = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        """Write and hash."""
        self._file.write(data)
        self.digest.update(data)
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        """The store flushes when the block ends."""

    def close(self) -> None:
        """The store closes the file."""


def _folder(name: str) -> str:
    return name.rpartition("/")[0]
