"""The file formats of a corpus. In: the URI of a file. Out: its parts, and the records of each part.

| format | suffixes | parts | raw text of a row |
| --- | --- | --- | --- |
| JSON Lines | .jsonl .ndjson .json, each also .gz .zst .bz2 | byte ranges; compressed: the whole file | the line |
| JSON array of objects | .json, also .gz .zst .bz2 | the whole file | the element |
| CSV with a header; its first lines show separator and encoding | .csv .tsv, also .gz .zst .bz2 | the whole file | the row as JSON |
| Parquet | .parquet | row groups | the row as JSON |
| Lance | .lance, a folder | fragments | the row as JSON |
| Arrow IPC | .arrow .feather | record batches; a stream: the whole file | the row as JSON |

A row that cannot be read becomes a record with a problem. A file that cannot be read at all, such as a truncated .gz, raises a UserError
that names it. A further format is one more entry of `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.data.formats.arrow_tables import ArrowIpc, Parquet
from pipelines.data.formats.base import FileFormat, Record, compression_of, location
from pipelines.data.formats.csv_rows import Csv
from pipelines.data.formats.json_lines import JsonLines
from pipelines.data.formats.lance_table import Lance
from pipelines.errors import UserError
from pipelines.storage.filesystems import object_store_errors, shown

__all__ = ["FORMATS", "FileFormat", "Record", "cuts", "format_of", "records", "suffixes"]

FORMATS: dict[str, FileFormat] = {
    "jsonl": JsonLines(),
    "csv": Csv(),
    "parquet": Parquet(),
    "arrow": ArrowIpc(),
    "lance": Lance(),
}


def suffixes() -> list[str]:
    """Every suffix that names a format, without those of compression."""
    return [suffix for form in FORMATS.values() for suffix in form.suffixes]


def format_of(name: str) -> str | None:
    """The key in FORMATS for a file name or URI. None if the name has no known suffix."""
    plain = location(name).rpartition("/")[2]
    compression = compression_of(name)
    suffix = "." + plain.removesuffix(compression).rpartition(".")[2]
    for kind, form in FORMATS.items():
        if suffix in form.suffixes and (form.compressible or not compression):
            return kind
    return None


def cuts(uri: str, kind: str, size: int, step: int) -> Iterator[tuple[int, int | None]]:
    """(start, end) of each part of a file, in file order.

    Args:
        size: of the file in bytes.
        step: bytes per part, for formats that are cut by bytes.
    """
    with _file_errors(uri, FORMATS[kind].name):
        yield from FORMATS[kind].cuts(uri, size, step)


def records(uri: str, kind: str, start: int = 0, end: int | None = None) -> Iterator[Record]:
    """The records of one part of a file, in file order; by default of the whole file.

    Raises:
        UserError: the file as a whole cannot be read.
    """
    with _file_errors(uri, FORMATS[kind].name):
        yield from FORMATS[kind].records(uri, start, end)


@contextmanager
def _file_errors(uri: str, name: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        with object_store_errors(uri):
            yield
    except FileNotFoundError as error:
        raise UserError(shown(uri), "there is no such file any more", "Restore it, or name another corpus.") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # Unicode: the name of a Parquet column
        rule = f"not readable as {name} ({' '.join(str(error).split())[:200]})"
        raise UserError(shown(uri), rule, "Repair or remove the file.") from error
