"""The file formats of a corpus: how a file is cut, and how a part of it becomes records.

A record is (row, raw text, problem): a mapping with the columns of the file, the row as it stands in the file, and what makes it
unreadable, empty where nothing does. What is wrong with one row is that row's problem; what is wrong with a whole file (a
truncated .gz, no Parquet inside) is one UserError that names it.

| format | suffixes | cut at | raw text |
| --- | --- | --- | --- |
| JSON Lines | .jsonl .ndjson .json, each also .gz .zst | bytes; compressed: not at all | the line |
| CSV with a header | .csv, .csv.gz, .csv.zst | not at all | the row as JSON |
| Parquet | .parquet | row groups | the row as JSON |
| Arrow IPC, file or stream | .arrow .feather | record batches; a stream: not at all | the row as JSON |
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from pipelines.errors import UserError
from pipelines.storage.filesystems import object_store_errors, open_filesystem, shown

Record = tuple[Any, str, str]

SUFFIXES = {
    ".jsonl": "jsonl",
    ".json": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
COMPRESSED = (".gz", ".zst")
MAX_LINE_BYTES = 16 << 20
"""A longer line of JSON Lines is a problem, not a row."""
MAX_CSV_FIELD_CHARACTERS = 2 << 20
"""A longer field means a quote that is never closed: it would take the rest of the file for its text."""

_BUFFER_BYTES = 1 << 20
_BATCH_ROWS = 1024
_BOM = b"\xef\xbb\xbf"
_FEW, _MANY = "fewer values than the header has columns", "more values than the header has columns"


def format_of(name: str) -> str | None:
    """The format that the name or URI of a file stands for: jsonl, csv, parquet, arrow; None for no format of ours."""
    plain = _location(name).rpartition("/")[2]
    for ending in COMPRESSED:
        if plain.endswith(ending):
            plain = plain.removesuffix(ending)
            return {"jsonl": "jsonl", "csv": "csv"}.get(SUFFIXES.get("." + plain.rpartition(".")[2], ""))
    return SUFFIXES.get("." + plain.rpartition(".")[2])


def cuts(uri: str, kind: str, size: int, step: int) -> Iterator[tuple[int, int | None]]:
    """(start, end) of the parts of a file, in order: bytes, about `step` each, or row groups, or record batches."""
    if kind == "jsonl" and not _location(uri).endswith(COMPRESSED):
        for start in range(0, size, step):
            yield start, min(start + step, size)
        return
    count = None
    if kind == "parquet":
        with _damage(uri, "Parquet"):
            count = _parquet(uri).num_row_groups
    elif kind == "arrow":
        with _damage(uri, "Arrow IPC"):
            count = _batch_count(uri)
    if count is None:
        yield 0, None
    else:
        yield from ((start, start + 1) for start in range(count))


def records(uri: str, kind: str, start: int = 0, end: int | None = None) -> Iterator[Record]:
    """The records of a part of a file, in their order. Raises UserError where the file is damaged beyond its rows."""
    if kind == "parquet":
        with _damage(uri, "Parquet"):
            yield from _table_records(_parquet_batches(uri, start, end))
    elif kind == "arrow":
        with _damage(uri, "Arrow IPC"):
            yield from _table_records(_arrow_batches(uri, start, end))
    elif kind == "csv":
        with _damage(uri, "CSV"):
            yield from _csv_records(uri)
    else:
        with _damage(uri, "JSON Lines"):
            yield from _json_records(uri, start, end)


@contextmanager
def _damage(uri: str, what: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        with object_store_errors(uri):
            yield
    except FileNotFoundError as error:
        raise UserError(shown(uri), "there is no such file any more", "Restore it, or name another corpus.") from error
    except (pa.ArrowException, OSError) as error:
        rule = f"not readable as {what} ({' '.join(str(error).split())[:200]})"
        raise UserError(shown(uri), rule, "Mend or remove the file.") from error


def _location(uri: str) -> str:
    return (uri.partition("?")[0] if "://" in uri else uri).lower()


def _stream(uri: str) -> Any:
    """The file's bytes from its beginning, decompressed by its name's ending."""
    filesystem, path = open_filesystem(uri)
    if filesystem.get_file_info(path).size == 0:
        return io.BytesIO()  # an empty .gz is no gzip file, and holds no rows all the same
    ending = next((e for e in COMPRESSED if _location(uri).endswith(e)), "")
    compression = {".gz": "gzip", ".zst": "zstd"}.get(ending)
    return io.BufferedReader(filesystem.open_input_stream(path, compression=compression), _BUFFER_BYTES)


# ---- JSON Lines


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("an object has the same key twice")
    return row


_DECODER = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_object)


def _json_records(uri: str, start: int, end: int | None) -> Iterator[Record]:
    decode = _DECODER.decode
    for line in _lines(uri, start, end):
        if len(line) >= MAX_LINE_BYTES:
            yield None, line[:_BUFFER_BYTES].decode(errors="replace").strip(), f"a line beyond {MAX_LINE_BYTES:,} bytes"
            continue
        try:
            text = line.decode().strip()
            if not text:
                continue
            row = decode(text)
        except UnicodeDecodeError as error:
            yield None, line.decode(errors="replace").strip(), f"not UTF-8 (byte {error.start})"
        except (ValueError, RecursionError) as error:
            yield None, text, f"not JSON ({str(error)[:100]})"
        else:
            if isinstance(row, dict):
                yield row, text, ""
            else:
                yield None, text, "not a JSON object"


def _lines(uri: str, start: int, end: int | None) -> Iterator[bytes]:
    """The lines that begin within [start, end) bytes. Of a longer line come its first MAX_LINE_BYTES."""
    if start == 0 and end is None:
        with _stream(uri) as reader:
            yield from _lines_of(reader, 0, math.inf)
        return
    filesystem, path = open_filesystem(uri)
    with filesystem.open_input_file(path) as file:
        # One byte earlier: a line that begins right at `start` is told by the line break before it.
        file.seek(max(start - 1, 0))
        reader = io.BufferedReader(file, _BUFFER_BYTES)
        position = start
        if start > 0:
            position = start - 1 + _skip_line(reader)
        yield from _lines_of(reader, position, math.inf if end is None else end)


def _lines_of(reader: Any, position: int, end: float) -> Iterator[bytes]:
    while position < end and (line := reader.readline(MAX_LINE_BYTES)):
        begin, position = position, position + len(line)
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            position += _skip_line(reader)
        yield line.removeprefix(_BOM) if begin == 0 else line


def _skip_line(reader: Any) -> int:
    """Read past the next line break; how many bytes that were."""
    passed = 0
    while piece := reader.readline(_BUFFER_BYTES):
        passed += len(piece)
        if piece.endswith(b"\n"):
            break
    return passed


# ---- CSV


class _CsvLines:
    """The lines of a CSV file, remembering those that the row being read is made of, so that they can be read again."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._again: list[str] = []
        self._taken: list[str] = []

    def __iter__(self) -> _CsvLines:
        return self

    def __next__(self) -> str:
        line = self._again.pop() if self._again else next(self._lines)
        self._taken.append(line)
        return line

    def begin_row(self) -> None:
        self._taken.clear()

    def back_to_second(self) -> str:
        """Give back all lines of the row but its first, which is returned."""
        first, *rest = self._taken
        self._again += reversed(rest)
        return first


def _csv_records(uri: str) -> Iterator[Record]:
    csv.field_size_limit(MAX_CSV_FIELD_CHARACTERS)  # the limit is the module's own, for the whole process
    with _stream(uri) as stream, io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape", newline="") as text:
        lines = _CsvLines(text)
        rows = csv.reader(lines, strict=True)
        header = _csv_header(uri, rows)
        while header:
            lines.begin_row()
            try:
                values = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                # Often a quote that is never closed. The lines after the first are rows of their own again.
                yield None, _printable(lines.back_to_second().strip()), f"not CSV ({error})"
                continue
            if values:
                yield _csv_record(header, values)


def _csv_header(uri: str, rows: Iterator[list[str]]) -> list[str]:
    try:
        header = next(filter(None, rows), [])
    except csv.Error as error:
        raise UserError(shown(uri), f"its header is not CSV ({error})", "Mend the file.") from error
    named = [name for name in header if name]
    twice = next((name for name in named if named.count(name) > 1), None)
    if twice is not None:
        raise UserError(shown(uri), f"two columns are called `{twice}`", "Rename one of them.")
    return header


def _csv_record(header: list[str], values: list[str]) -> Record:
    row: dict[Any, Any] = dict(zip(header, values, strict=False))
    if len(values) < len(header):
        row |= dict.fromkeys(header[len(values) :])
        return None, json.dumps(row), _FEW
    if len(values) > len(header):
        return None, json.dumps({**row, None: values[len(header) :]}), _MANY
    raw = json.dumps(row)
    if "\\udc" in raw:  # as JSON spells the surrogates that stand for undecodable bytes
        for name, value in row.items():
            if any("\udc80" <= character <= "\udcff" for character in value):
                return None, raw, f"not UTF-8 (column `{_printable(name)}`)"
    return {name: value or None for name, value in row.items()}, raw, ""


def _printable(text: str) -> str:
    return text.encode("utf-8", errors="replace").decode()


# ---- Parquet and Arrow


def _parquet(uri: str) -> Any:
    import pyarrow.parquet as pq

    filesystem, path = open_filesystem(uri)
    return pq.ParquetFile(path, filesystem=filesystem)


def _parquet_batches(uri: str, start: int, end: int | None) -> Iterator[Any]:
    file = _parquet(uri)
    groups = range(start, file.num_row_groups if end is None else end)
    yield from file.iter_batches(row_groups=list(groups), batch_size=_BATCH_ROWS)


def _is_ipc_file(uri: str) -> bool:
    filesystem, path = open_filesystem(uri)
    with filesystem.open_input_stream(path) as stream:
        return bool(stream.read(6) == b"ARROW1")


def _batch_count(uri: str) -> int | None:
    """How many record batches an IPC file has; None for a stream, which does not say."""
    import pyarrow as pa

    if not _is_ipc_file(uri):
        return None
    filesystem, path = open_filesystem(uri)
    with filesystem.open_input_file(path) as file:
        return int(pa.ipc.open_file(file).num_record_batches)


def _arrow_batches(uri: str, start: int, end: int | None) -> Iterator[Any]:
    import pyarrow as pa

    filesystem, path = open_filesystem(uri)
    if not _is_ipc_file(uri):
        with filesystem.open_input_stream(path) as stream, pa.ipc.open_stream(stream) as reader:
            yield from map(_validated, reader)
        return
    with filesystem.open_input_file(path) as file:
        reader = pa.ipc.open_file(file)
        for index in range(start, reader.num_record_batches if end is None else end):
            yield _validated(reader.get_batch(index))


def _validated(batch: Any) -> Any:
    """Arrow takes names and offsets in a file for granted, and a damaged one would crash this process."""
    import pyarrow as pa

    try:
        columns = batch.columns
    except UnicodeDecodeError as error:
        raise pa.ArrowInvalid(f"the name of a column is no text: {error}") from error
    for column in columns:
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            if "UTF8" not in str(error):  # that is the row's problem
                raise
    return batch


def _table_records(batches: Iterator[Any]) -> Iterator[Record]:
    for batch in batches:
        for begin in range(0, len(batch), _BATCH_ROWS):
            for row in _rows(batch.slice(begin, _BATCH_ROWS)):
                yield row, json.dumps(row, ensure_ascii=False, default=str), ""


def _rows(batch: Any) -> Iterator[dict[str, Any]]:
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError):  # some value has no Python form: go value by value, and only it is lost
        names = batch.schema.names
        for index in range(len(batch)):
            yield {name: _value(batch.column(i)[index]) for i, name in enumerate(names)}


def _value(scalar: Any) -> Any:
    """The Python value; where there is none, the bytes of a text that is not UTF-8, the text of a date beyond Python's, or nothing."""
    import pyarrow as pa

    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return scalar.as_buffer().to_pybytes() if hasattr(scalar, "as_buffer") else None
    except (ValueError, OverflowError):
        return scalar.cast(pa.string()).as_py() if pa.types.is_temporal(scalar.type) else None
