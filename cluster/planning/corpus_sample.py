"""The rows of a corpus for a plan: all of a small corpus, a sample of a large one.

A sample reads 64 places at equal distances in the bytes of the corpus. Each gives a density, in rows per byte:

    JSON Lines                 the lines that begin in 128 KiB
    Parquet, Arrow IPC         rows of the file by its metadata; the first rows of the part at this place are read
    CSV, compressed files      the rows in the first 2 MiB of the file; such a file cannot be entered in its middle

The estimate is the mean density times the bytes. Its error is 1.96 standard errors of the mean, so 95% of such intervals cover the truth.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cluster.planning.model import RowSample
from pipelines.data.files import file_format, file_size
from pipelines.data.formats import FORMATS
from pipelines.data.formats.base import COMPRESSIONS, compression_of, location
from pipelines.data.reader import FileRange, Row, corpus_splits, read_split
from pipelines.errors import UserError
from pipelines.storage.filesystems import open_filesystem
from pipelines.tasks import Example, Task

READ_WHOLE_BYTES = 16 << 20
"""A corpus of at most this size is read as a whole."""
_PLACES = 64
_WINDOW_BYTES = 128 << 10
_PREFIX_BYTES = 2 << 20
_CUT_BYTES = 4096
_ROWS_OF_PART = 256
_KEPT_OF_PLACE = 16
_REQUESTS = 16


@dataclass
class CorpusRows:
    """Rows of one data split, and examples of them."""

    readable: int = 0
    unreadable: int = 0
    examples: list[Example] = field(default_factory=list)
    """In corpus order."""
    sample: RowSample | None = None
    """None if every row was read."""


@dataclass(frozen=True)
class _Place:
    """What reading at one place found. Rates are rows per byte."""

    readable: float
    unreadable: float
    examples: list[Example]
    read: int


def corpus_rows(
    files: Sequence[str], task: Task, fields: Mapping[str, str], *, limit: int | None, examples: int
) -> CorpusRows:
    """Rows of some files, in corpus order.

    Args:
        limit: `corpus.limit`.
        examples: how many are kept.

    Raises:
        UserError: a file as a whole cannot be read.
    """
    with ThreadPoolExecutor(_REQUESTS) as pool:
        sizes = list(pool.map(file_size, files))
    if sum(sizes) <= READ_WHOLE_BYTES:
        return _all_rows(files, task, fields, limit=limit, examples=examples)
    found = _sampled(files, sizes, task, fields, examples)
    if limit is None or limit >= found.readable + found.unreadable:
        return found
    share = found.readable / (found.readable + found.unreadable)
    readable = round(limit * share)
    return dataclasses.replace(found, readable=readable, unreadable=limit - readable)


def _all_rows(
    files: Sequence[str], task: Task, fields: Mapping[str, str], *, limit: int | None, examples: int
) -> CorpusRows:
    found = CorpusRows()
    for split in corpus_splits(files, "train", limit=limit):
        for row in read_split(split, task, fields):
            if row.example is None:
                found.unreadable += 1
                continue
            found.readable += 1
            if len(found.examples) < examples:
                found.examples.append(row.example)
    return found


def _sampled(
    files: Sequence[str], sizes: Sequence[int], task: Task, fields: Mapping[str, str], examples: int
) -> CorpusRows:
    total = sum(sizes)
    starts = list(itertools.accumulate(sizes, initial=0))
    places: list[_Place] = []
    seen: dict[tuple[str, int], _Place] = {}
    for number in range(_PLACES):
        at = number * total // _PLACES
        index = next(i for i in range(len(files)) if at < starts[i + 1])
        part = _part(files[index], sizes[index], at - starts[index])
        key = part.uri, part.start
        if key not in seen:
            seen[key] = _read(part, sizes[index], task, fields)
            places.append(seen[key])
        else:  # the same part of the same file: it counts again, and its examples do not
            places.append(dataclasses.replace(seen[key], examples=[], read=0))
    readable = [place.readable for place in places]
    mean = statistics.mean(readable)
    error = 1.96 * statistics.stdev(readable) / math.sqrt(len(readable)) / mean if mean and len(seen) > 1 else None
    kept = [example for place in places for example in place.examples]
    return CorpusRows(
        readable=round(mean * total),
        unreadable=round(statistics.mean(place.unreadable for place in places) * total),
        examples=kept[:examples],
        sample=RowSample(read=sum(place.read for place in places), error=error),
    )


def _part(uri: str, size: int, offset: int) -> FileRange:
    """What is read for an offset in a file."""
    kind = file_format(uri)
    parts = list(FORMATS[kind].cuts(uri, size, size))
    start, end = parts[min(offset * len(parts) // size, len(parts) - 1)]
    if FORMATS[kind].by_bytes and end is not None:
        return FileRange("train", uri, kind, offset, min(offset + _WINDOW_BYTES, size))
    return FileRange("train", uri, kind, start, end, rows=_ROWS_OF_PART)


def _read(part: FileRange, size: int, task: Task, fields: Mapping[str, str]) -> _Place:
    if part.rows is None and part.end is not None:
        return _place(read_split(part, task, fields), 1 / (part.end - part.start))
    rows = FORMATS[part.kind].row_count(part.uri, part.start)
    if rows is not None:
        return _place(read_split(part, task, fields), None, rows / size)
    with tempfile.TemporaryDirectory(prefix="raystill-plan-") as folder:
        copy, taken = _prefix(part.uri, Path(folder))
        found = read_split(dataclasses.replace(part, uri=str(copy), start=0, end=None, rows=None), task, fields)
        return _place(found if taken == size else _whole_rows(found), 1 / taken)


def _place(rows: Iterable[Row], per_row: float | None, density: float = 0.0) -> _Place:
    """
    Args:
        per_row: density of one row; None: `density` is that of all rows, of which these are some.
    """
    readable = read = 0
    examples: list[Example] = []
    for row in rows:
        read += 1
        readable += row.example is not None
        if row.example is not None and len(examples) < _KEPT_OF_PLACE:
            examples.append(row.example)
    each = density / max(read, 1) if per_row is None else per_row
    return _Place(readable * each, (read - readable) * each, examples, read)


def _whole_rows(rows: Iterable[Row]) -> Iterator[Row]:
    """The rows of a prefix without the last one, which is cut. A cut Arrow stream ends with an error."""
    last = None
    with suppress(UserError):
        for row in rows:
            if last is not None:
                yield last
            last = row


def _prefix(uri: str, folder: Path) -> tuple[Path, int]:
    """The rows in a file's first bytes as a file that is not compressed, and the number of these bytes."""
    import pyarrow as pa

    filesystem, path = open_filesystem(uri)
    with filesystem.open_input_stream(path, compression=None) as stream:
        data = stream.read(_PREFIX_BYTES)
    suffix = compression_of(uri)
    copy = folder / location(uri).rpartition("/")[2].removesuffix(suffix)
    with copy.open("wb") as file:
        if not suffix:
            file.write(data)
            return copy, len(data)
        # Small reads: the last one, which the cut end breaks, is lost.
        with suppress(OSError), pa.CompressedInputStream(pa.BufferReader(data), COMPRESSIONS[suffix]) as plain:
            while piece := plain.read(_CUT_BYTES):
                file.write(piece)
    return copy, len(data)
