"""CSV with a header (RFC 4180). csv_dialect.py finds separator and encoding. An empty value is a null."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator

from pipelines.data.formats.base import Columns, FileFormat, Record, open_bytes
from pipelines.data.formats.csv_dialect import csv_dialect
from pipelines.errors import UserError
from pipelines.storage.filesystems import shown

MAX_FIELD_CHARACTERS = 2 << 20
"""A longer field means a quote that is never closed, which would swallow the rest of the file."""
_FEW, _MANY = "fewer values than the header has columns", "more values than the header has columns"


class Csv(FileFormat):
    """A file is one part: where a row begins shows only when all before it has been read."""

    name = "CSV"
    suffixes = (".csv", ".tsv")
    compressible = True

    def cuts(self, uri: str, size: int, step: int) -> Iterator[tuple[int, int | None]]:
        yield 0, None

    def records(self, uri: str, start: int, end: int | None) -> Iterator[Record]:
        csv.field_size_limit(MAX_FIELD_CHARACTERS)  # a setting of the whole process
        dialect = csv_dialect(uri)
        with (
            open_bytes(uri) as stream,
            io.TextIOWrapper(stream, dialect.encoding, "surrogateescape", newline="") as text,
        ):
            lines = _Lines(text)
            rows = csv.reader(lines, delimiter=dialect.separator, skipinitialspace=dialect.spaces, strict=True)
            header = _header(uri, rows)
            while header:
                lines.begin_row()
                try:
                    values = next(rows)
                except StopIteration:
                    return
                except csv.Error as error:
                    # Often a quote that is never closed: the lines after the first one are rows of their own.
                    yield Record(None, _printable(lines.rewind().strip()), f"not CSV ({error})")
                    continue
                if values:
                    yield _record(header, values)


class _Lines:
    """Lines of a CSV file that can go back to the second line of the current row."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._again: list[str] = []
        self._row: list[str] = []

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._again.pop() if self._again else next(self._lines)
        self._row.append(line)
        return line

    def begin_row(self) -> None:
        self._row.clear()

    def rewind(self) -> str:
        """Go back to the second line of the row. Returns the first line."""
        first, *rest = self._row
        self._again += reversed(rest)
        return first


def _header(uri: str, rows: Iterator[list[str]]) -> list[str]:
    try:
        header = next(filter(None, rows), [])
    except csv.Error as error:
        raise UserError(shown(uri), f"its header is not CSV ({error})", "Repair the file.") from error
    named = [name for name in header if name]
    twice = next((name for name in named if named.count(name) > 1), None)
    if twice is not None:
        raise UserError(shown(uri), f"two columns are called `{twice}`", "Rename one of them.")
    return header


def _record(header: list[str], values: list[str]) -> Record:
    row: dict[str | None, str | list[str] | None] = dict(zip(header, values, strict=False))
    if len(values) < len(header):
        row |= dict.fromkeys(header[len(values) :])
        return Record(None, json.dumps(row), _FEW)
    if len(values) > len(header):
        return Record(None, json.dumps({**row, None: values[len(header) :]}), _MANY)
    raw = json.dumps(row)
    if "\\udc" in raw:  # JSON's spelling of the surrogates that stand for undecodable bytes
        for name, value in zip(header, values, strict=True):
            if any("\udc80" <= character <= "\udcff" for character in value):
                return Record(None, raw, f"not UTF-8 (column `{_printable(name)}`)")
    columns: Columns = {name: value or None for name, value in zip(header, values, strict=True)}
    return Record(columns, raw, "")


def _printable(text: str) -> str:
    return text.encode("utf-8", errors="replace").decode()
