"""One pass over a corpus as its task reads it: gold labels, repeated ids, and rows that cannot be read, with file and row number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pipelines.data.reader import Row, corpus_splits, read_split
from pipelines.storage.filesystems import shown
from pipelines.tasks import Task

MAX_ROWS = 200_000
_KINDS = 1000


@dataclass
class Problems:
    """Rows with the same problem."""

    rows: int = 0
    first: str = ""
    """`tickets.csv, row 7` (the first data row is 1)."""


@dataclass
class Survey:
    """What the rows of some files are."""

    rows: int = 0
    readable: int = 0
    whole: bool = True
    """False: only the first rows were read."""
    with_gold: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    """Gold label -> rows, of the first 1,000 labels."""
    repeated: Problems = field(default_factory=Problems)
    """Readable rows whose id an earlier row has. The first row of an id counts."""
    unreadable: dict[str, Problems] = field(default_factory=dict)
    """Problem -> its rows."""

    @property
    def without_gold(self) -> int:
        """Readable rows without a gold label."""
        return self.readable - self.with_gold


def survey(
    files: Sequence[str], task: Task, fields: Mapping[str, str], *, limit: int | None = None, max_rows: int = MAX_ROWS
) -> Survey:
    """Read the rows of some files, at most `max_rows`.

    Args:
        limit: `corpus.limit`.

    Raises:
        UserError: a file as a whole cannot be read.
    """
    found, ids = Survey(), set[str]()
    for place, row in placed_rows(files, task, fields, limit):
        if found.rows == max_rows:
            found.whole = False
            break
        found.rows += 1
        if row.example is None:
            if row.problem in found.unreadable or len(found.unreadable) < _KINDS:
                _note(found.unreadable.setdefault(row.problem, Problems()), place)
            continue
        found.readable += 1
        if row.id in ids:
            _note(found.repeated, place)
        ids.add(row.id)
        gold = row.example.gold
        if gold is not None:
            found.with_gold += 1
            if gold in found.labels or len(found.labels) < _KINDS:
                found.labels[gold] += 1
    return found


def _note(problems: Problems, place: str) -> None:
    problems.rows += 1
    problems.first = problems.first or place


def placed_rows(
    files: Sequence[str], task: Task, fields: Mapping[str, str], limit: int | None
) -> Iterator[tuple[str, Row]]:
    """(`tickets.csv, row 7`, the row) in corpus order. The first data row of a file is 1."""
    uri, number = "", 0
    for split in corpus_splits(files, "train", limit=limit):
        if split.uri != uri:
            uri, number = split.uri, 0
        for row in read_split(split, task, fields):
            number += 1
            yield f"{shown(uri).rpartition('/')[2]}, row {number:,}", row
