"""What every file format provides, and how its bytes are opened."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple, Protocol

from pipelines.storage.filesystems import open_filesystem

Columns = dict[str, Any]
"""Column -> value of one row."""
BUFFER_BYTES = 1 << 20
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
"""Suffix -> pyarrow's name."""


class Record(NamedTuple):
    """One row of a file. `columns` is None if the row cannot be read; `problem` then says why, else it is empty."""

    columns: Columns | None
    raw: str
    """The row as text, for the rejects."""
    problem: str


class FileFormat(Protocol):
    """How files of one format are split into parts and read. Parts in order, each read in order, give the file in order."""

    name: ClassVar[str]
    """For messages."""
    suffixes: ClassVar[tuple[str, ...]]
    """Lower case, with the dot."""
    compressible: ClassVar[bool]
    """True if the whole file may be compressed, with `.gz`, `.zst` or `.bz2` after the suffix."""
    by_bytes: ClassVar[bool] = False
    """True if parts of a file that is not compressed are ranges of bytes."""

    def cuts(self, uri: str, size: int, step: int) -> Iterator[tuple[int, int | None]]:
        """(start, end) of each part, in units of the format; end None: to the end of the file. See `formats.cuts`."""

    def row_count(self, uri: str, start: int) -> int | None:
        """Rows of the file without reading them, as far as it has parts like the one at `start`. None if only reading shows them."""
        return None

    def records(self, uri: str, start: int, end: int | None) -> Iterator[Record]:
        """The records of a part. Raises OSError or pyarrow.ArrowException if the file is damaged beyond one row."""


def location(uri: str) -> str:
    """A path or URI in lower case, without the query part."""
    return (uri.partition("?")[0] if "://" in uri else uri).lower()


def compression_of(uri: str) -> str:
    """The suffix of a compressed file, or nothing."""
    return next((suffix for suffix in COMPRESSIONS if location(uri).endswith(suffix)), "")


def open_bytes(uri: str) -> io.BufferedReader | io.BytesIO:
    """The file's bytes from its beginning, decompressed if its name says so."""
    filesystem, path = open_filesystem(uri)
    if filesystem.get_file_info(path).size == 0:
        return io.BytesIO()  # an empty .gz is no gzip file, yet it is a corpus file without rows
    stream = filesystem.open_input_stream(path, compression=COMPRESSIONS.get(compression_of(uri)))
    return io.BufferedReader(stream, BUFFER_BYTES)
