"""How a CSV file is written, found in its first 64 KiB: encoding, separator, and whether spaces follow separators.

    id;text;label           separator `;`
    id<tab>text<tab>label   separator tab; also the first choice for .tsv
    id, text, label         spaces after separators are dropped

Comma and UTF-8 unless the file shows something else, so that the same file is always read the same way.
"""

from __future__ import annotations

import csv
import io
import itertools
from dataclasses import dataclass

from pipelines.data.formats.base import compression_of, location, open_bytes
from pipelines.data.formats.text_encoding import text_encoding

SEPARATORS = (",", ";", "\t", "|")
_HEAD_BYTES = 64 << 10
_COMPARED_ROWS = 10


@dataclass(frozen=True)
class CsvDialect:
    """How a file is written."""

    encoding: str = "utf-8-sig"
    separator: str = ","
    spaces: bool = False
    """Each separator of the header is followed by a space, which is not part of the value."""

    @property
    def separator_name(self) -> str:
        """The separator for messages."""
        return "tab" if self.separator == "\t" else f"`{self.separator}`"


def csv_dialect(uri: str) -> CsvDialect:
    """How the CSV file at a path or URI is written. Raises OSError if it cannot be opened."""
    with open_bytes(uri) as stream:
        head = stream.read(_HEAD_BYTES)
    encoding = text_encoding(head)
    text = head.decode(encoding, errors="replace")
    if len(head) == _HEAD_BYTES:
        text = text.rpartition("\n")[0] or text
    tabs_first = location(uri).removesuffix(compression_of(uri)).endswith(".tsv")
    order = ("\t", ",", ";", "|") if tabs_first else SEPARATORS
    widths = {separator: _columns(text, separator) for separator in order}
    separator = max(order, key=lambda one: widths[one])  # of equals the first
    if widths[separator] <= 1:
        separator = order[0]
    return CsvDialect(encoding, separator, _has_spaces(text, separator))


def _columns(text: str, separator: str) -> int:
    """Columns of the header if the next rows have as many, else 0."""
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        header, *others = itertools.islice(filter(None, rows), _COMPARED_ROWS)
    except (ValueError, csv.Error):
        return 0
    return len(header) if all(len(row) == len(header) for row in others) else 0


def _has_spaces(text: str, separator: str) -> bool:
    header = text.lstrip("\r\n").partition("\n")[0].split(separator)
    return len(header) > 1 and all(name.startswith(" ") for name in header[1:])
