"""Files of a corpus in another encoding than UTF-8."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipelines.data.files import file_format
from pipelines.data.formats.base import open_bytes
from pipelines.data.formats.text_encoding import HEAD_BYTES, conversion, one_byte_encoding, text_encoding


def encoding_name(files: Sequence[str]) -> str:
    """The encoding of the first file that is not UTF-8, for people; else UTF-8."""
    for uri in files:
        with open_bytes(uri) as stream:
            head = stream.read(HEAD_BYTES)
        found = text_encoding(head)
        if found != "utf-8-sig":
            return found.upper()
        if other := one_byte_encoding(head):
            return f"{other.upper()}, which is not read"
    return "UTF-8"


def encoding_warnings(files: Sequence[str]) -> Iterator[str]:
    """Text files in another encoding than UTF-8, with the command that converts them."""
    for uri in files:
        kind = file_format(uri)
        if kind in ("csv", "jsonl") and (found := conversion(uri, reads_utf_16=kind == "csv")):
            yield found
