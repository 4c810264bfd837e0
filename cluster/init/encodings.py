"""Files of a corpus in another encoding than UTF-8."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipelines.data.files import file_format
from pipelines.data.formats.text_encoding import conversion


def encoding_warnings(files: Sequence[str]) -> Iterator[str]:
    """Text files in another encoding than UTF-8, with the command that converts them."""
    for uri in files:
        kind = file_format(uri)
        if kind in ("csv", "jsonl") and (found := conversion(uri, reads_utf_16=kind == "csv")):
            yield found
