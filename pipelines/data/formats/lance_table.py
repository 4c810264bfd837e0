"""Lance data sets: folders that end in `.lance`, which the package `pylance` reads. As Ray Data does, a worker reads some fragments."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipelines.data.formats.arrow_tables import table_records
from pipelines.data.formats.base import FileFormat, Record
from pipelines.errors import UserError
from pipelines.storage.filesystems import shown

_BATCH_ROWS = 1024


class Lance(FileFormat):
    """Parts are fragments."""

    name = "Lance"
    suffixes = (".lance",)
    compressible = False

    def cuts(self, uri: str, size: int, step: int) -> Iterator[tuple[int, int | None]]:
        for number in range(len(_fragments(uri))):
            yield number, number + 1

    def row_count(self, uri: str, start: int) -> int | None:
        return sum(int(fragment.count_rows()) for fragment in _fragments(uri))

    def records(self, uri: str, start: int, end: int | None) -> Iterator[Record]:
        for fragment in _fragments(uri)[start:end]:
            yield from table_records(fragment.to_batches(batch_size=_BATCH_ROWS))


def _fragments(uri: str) -> list[Any]:
    try:
        import lance
    except ImportError as error:
        raise UserError(shown(uri), "the package `pylance` is not installed", "Install raystill[lance].") from error
    if "?" in uri:
        rule = "Lance takes no options in the URI"
        raise UserError(shown(uri), rule, "Set AWS_REGION and AWS_ENDPOINT in the environment.")
    try:
        return list(lance.dataset(uri).get_fragments())
    except ValueError as error:
        raise OSError(str(error)) from error
