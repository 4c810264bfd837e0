"""Parquet and Arrow IPC files. Columns may be of any type; values that are no text become the problem of their row."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from pipelines.data.formats.base import Columns, FileFormat, Record
from pipelines.storage.filesystems import open_filesystem

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_BATCH_ROWS = 1024
_IPC_FILE_MAGIC = b"ARROW1"


class Parquet(FileFormat):
    """Parts are row groups."""

    name = "Parquet"
    suffixes = (".parquet",)
    compressible = False

    def cuts(self, uri: str, size: int, step: int) -> Iterator[tuple[int, int | None]]:
        for group in range(_parquet_file(uri).num_row_groups):
            yield group, group + 1

    def row_count(self, uri: str, start: int) -> int | None:
        return int(_parquet_file(uri).metadata.num_rows)

    def records(self, uri: str, start: int, end: int | None) -> Iterator[Record]:
        file = _parquet_file(uri)
        groups = range(start, file.num_row_groups if end is None else end)
        yield from table_records(file.iter_batches(row_groups=list(groups), batch_size=_BATCH_ROWS))


class ArrowIpc(FileFormat):
    """Parts are record batches. A stream has no index of its batches and is one part."""

    name = "Arrow IPC"
    suffixes = (".arrow", ".feather")
    compressible = False

    def cuts(self, uri: str, size: int, step: int) -> Iterator[tuple[int, int | None]]:
        import pyarrow as pa

        if not _has_batch_index(uri):
            yield 0, None
            return
        filesystem, path = open_filesystem(uri)
        with filesystem.open_input_file(path) as file:
            count = pa.ipc.open_file(file).num_record_batches
        for batch in range(count):
            yield batch, batch + 1

    def row_count(self, uri: str, start: int) -> int | None:
        import pyarrow as pa

        if not _has_batch_index(uri):
            return None
        filesystem, path = open_filesystem(uri)
        with filesystem.open_input_file(path) as file:
            reader = pa.ipc.open_file(file)
            return int(reader.get_batch(start).num_rows * reader.num_record_batches)

    def records(self, uri: str, start: int, end: int | None) -> Iterator[Record]:
        yield from table_records(_batches(uri, start, end))


def _parquet_file(uri: str) -> pq.ParquetFile:
    import pyarrow.parquet as pq

    filesystem, path = open_filesystem(uri)
    return pq.ParquetFile(path, filesystem=filesystem)


def _has_batch_index(uri: str) -> bool:
    filesystem, path = open_filesystem(uri)
    with filesystem.open_input_stream(path) as stream:
        return bool(stream.read(len(_IPC_FILE_MAGIC)) == _IPC_FILE_MAGIC)


def _batches(uri: str, start: int, end: int | None) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    filesystem, path = open_filesystem(uri)
    if not _has_batch_index(uri):
        with filesystem.open_input_stream(path) as stream, pa.ipc.open_stream(stream) as reader:
            yield from map(_validated, reader)
        return
    with filesystem.open_input_file(path) as file:
        reader = pa.ipc.open_file(file)
        for index in range(start, reader.num_record_batches if end is None else end):
            yield _validated(reader.get_batch(index))


def _validated(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch, unless it is damaged. Arrow trusts names and offsets of a file, and wrong ones would crash this process.

    Raises:
        pyarrow.ArrowInvalid: a name or an offset is wrong.
    """
    import pyarrow as pa

    try:
        columns = batch.columns
    except UnicodeDecodeError as error:
        raise pa.ArrowInvalid(f"the name of a column is no text: {error}") from error
    for column in columns:
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            if "UTF8" not in str(error):  # a text that is not UTF-8 is the problem of its row alone
                raise
    return batch


def table_records(batches: Iterable[pa.RecordBatch]) -> Iterator[Record]:
    """The rows of batches."""
    for batch in batches:
        for begin in range(0, len(batch), _BATCH_ROWS):
            for row in _rows(batch.slice(begin, _BATCH_ROWS)):
                yield Record(row, json.dumps(row, ensure_ascii=False, default=str), "")


def _rows(batch: pa.RecordBatch) -> Iterator[Columns]:
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError):  # one value has no Python form: convert each value, and lose only that one
        names = batch.schema.names
        for index in range(len(batch)):
            yield {name: _value(batch.column(i)[index]) for i, name in enumerate(names)}


def _value(scalar: pa.Scalar) -> Any:
    """The Python value. Without one: bytes of a text that is not UTF-8, text of a date beyond Python's range, else None."""
    import pyarrow as pa

    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return scalar.as_buffer().to_pybytes() if hasattr(scalar, "as_buffer") else None
    except (ValueError, OverflowError):
        return scalar.cast(pa.string()).as_py() if pa.types.is_temporal(scalar.type) else None
