"""JSON Lines: one object per line, UTF-8. A .json file may be one array of objects instead (json_array.py)."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator

from pipelines.data.formats.base import BUFFER_BYTES, Columns, FileFormat, Record, compression_of, location, open_bytes
from pipelines.data.formats.json_array import array_records, is_array
from pipelines.storage.filesystems import open_filesystem

MAX_LINE_BYTES = 16 << 20
"""A longer line is unreadable; the rest of it is skipped."""
_BOM = b"\xef\xbb\xbf"


class JsonLines(FileFormat):
    """Parts are byte ranges; a part holds the lines that begin in its range. An array is one part."""

    name = "JSON Lines"
    suffixes = (".jsonl", ".json", ".ndjson")
    compressible = True
    by_bytes = True

    def cuts(self, uri: str, size: int, step: int) -> Iterator[tuple[int, int | None]]:
        if compression_of(uri) or _is_array(uri):
            yield 0, None
            return
        for start in range(0, size, step):
            yield start, min(start + step, size)

    def records(self, uri: str, start: int, end: int | None) -> Iterator[Record]:
        if start == 0 and end is None and _is_array(uri):
            yield from array_records(uri, _DECODER)
            return
        decode = _DECODER.decode
        for line in _lines(uri, start, end):
            if len(line) >= MAX_LINE_BYTES:
                shown = line[:BUFFER_BYTES].decode(errors="replace").strip()
                yield Record(None, shown, f"a line beyond {MAX_LINE_BYTES:,} bytes")
                continue
            try:
                text = line.decode().strip()
                if not text:
                    continue
                row = decode(text)
            except UnicodeDecodeError as error:
                yield Record(None, line.decode(errors="replace").strip(), f"not UTF-8 (byte {error.start})")
            except (ValueError, RecursionError) as error:
                yield Record(None, text, f"not JSON ({str(error)[:100]})")
            else:
                is_object = isinstance(row, dict)
                yield Record(row if is_object else None, text, "" if is_object else "not a JSON object")


def _is_array(uri: str) -> bool:
    """True for a .json file that holds one array."""
    return location(uri).removesuffix(compression_of(uri)).endswith(".json") and is_array(uri)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _object(pairs: list[tuple[str, object]]) -> Columns:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("an object has the same key twice")
    return row


_DECODER = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_object)


def _lines(uri: str, start: int, end: int | None) -> Iterator[bytes]:
    """The lines that begin within [start, end) bytes, each cut at MAX_LINE_BYTES."""
    if start == 0 and end is None:
        with open_bytes(uri) as reader:
            yield from _lines_from(reader, 0, math.inf)
        return
    filesystem, path = open_filesystem(uri)
    with filesystem.open_input_file(path) as file:
        # One byte earlier, because only the line break before `start` shows that a line begins at `start`.
        file.seek(max(start - 1, 0))
        reader = io.BufferedReader(file, BUFFER_BYTES)
        position = start - 1 + _skip_line(reader) if start > 0 else 0
        yield from _lines_from(reader, position, math.inf if end is None else end)


def _lines_from(reader: io.BufferedIOBase, position: int, end: float) -> Iterator[bytes]:
    """`position`: of the reader in the file."""
    while position < end and (line := reader.readline(MAX_LINE_BYTES)):
        begin, position = position, position + len(line)
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            position += _skip_line(reader)
        yield line.removeprefix(_BOM) if begin == 0 else line


def _skip_line(reader: io.BufferedIOBase) -> int:
    """Read to the end of the line. Returns the bytes read."""
    skipped = 0
    while piece := reader.readline(BUFFER_BYTES):
        skipped += len(piece)
        if piece.endswith(b"\n"):
            break
    return skipped
