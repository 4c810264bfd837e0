"""Readers of a corpus that is labelled: a file range -> the examples to query, and the rejects that need no teacher.

A reader reads ahead up to 16 MiB, which is a whole range unless the file cannot be cut. Then it sends their ids to the scan (scan.py).
So ranges are parsed in parallel, although they are decided in corpus order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipelines.data.near_duplicates import signature
from pipelines.data.reader import FileRange, Row, read_split
from pipelines.data.schema import EXAMPLE
from pipelines.errors import UserError
from pipelines.label.answers.outcomes import Outcome, outcome_table, rejected
from pipelines.label.id_table import FIRST, REPEATED
from pipelines.label.output.commits import PieceName
from pipelines.label.output.id_index import id_keys
from pipelines.label.scan import NEAR, PIECE_ROWS, Decision, PieceRows
from pipelines.storage.filesystems import shown
from pipelines.tasks import Example, TaskSpec, load_task
from pipelines.tasks.failures import described

_AHEAD_CHARACTERS = 16 << 20
_MAX_TICKETS = 4096
"""Calls of readers, each of which takes Ray some milliseconds."""


@dataclass(frozen=True)
class RemoteScan:
    """What readers call of a scan.CorpusScan, by the handle of its actor."""

    actor: Any

    def deal(self, ticket: int, number: int) -> int | None:
        """CorpusScan.deal."""
        found: int | None = self._call("deal", ticket, number)
        return found

    def decide(self, pieces: Sequence[PieceRows]) -> list[Decision]:
        """CorpusScan.decide. Ray lends this reader's CPUs to others meanwhile."""
        found: list[Decision] = self._call("decide", pieces)
        return found

    def report(self, name: PieceName, split: str, rows: int, is_last: bool, rejects: pa.Table | None) -> None:
        """CorpusScan.report."""
        self._call("report", name, split, rows, is_last, rejects)

    def damaged(self, value: str, rule: str, remedy: str) -> None:
        """CorpusScan.damaged."""
        self._call("damaged", value, rule, remedy)

    def _call(self, method: str, *arguments: Any) -> Any:
        import ray

        return ray.get(getattr(self.actor, method).remote(*arguments))


@dataclass
class _Piece:
    """Rows of a range that have been read."""

    number: int
    rows: list[Row] = field(default_factory=list)
    characters: int = 0
    is_last: bool = False

    def add(self, row: Row) -> None:
        self.rows.append(row)
        self.characters += len(row.raw)


@dataclass(frozen=True)
class ExampleReader:
    """Reads file ranges. Every reader process has one."""

    splits: Sequence[FileRange]
    spec: TaskSpec
    fields: Mapping[str, str]
    """`corpus.fields`."""
    scan: RemoteScan
    near_duplicates: bool = False

    @property
    def tickets(self) -> int:
        """Tickets that are enough for all ranges."""
        return -(-len(self.splits) // self._ranges_per_ticket)

    @property
    def _ranges_per_ticket(self) -> int:
        return -(-len(self.splits) // _MAX_TICKETS)

    def blocks(self, ticket: int) -> Iterator[pa.Table]:
        """Blocks (schema.EXAMPLE) of the examples that are to be answered, of the ranges that the scan deals to this ticket.

        Raises:
            UserError: a file as a whole cannot be read. The scan knows it too, because Ray passes on its text alone.
        """
        for number in range(self._ranges_per_ticket):
            index = self.scan.deal(ticket, number)
            if index is None:
                return
            yield from self._range(index)

    def _range(self, index: int) -> Iterator[pa.Table]:
        pieces: list[_Piece] = []
        for piece in self._pieces(index):
            pieces.append(piece)
            if piece.is_last or sum(one.characters for one in pieces) >= _AHEAD_CHARACTERS:
                yield from self._decided(index, pieces)
                pieces = []

    def _pieces(self, index: int) -> Iterator[_Piece]:
        """The pieces of a range. Names a file that cannot be read to the scan; errors of the scan itself are not the file's."""
        piece = _Piece(0)
        try:
            for row in read_split(self.splits[index], load_task(self.spec), self.fields):
                piece.add(row)
                if len(piece.rows) == PIECE_ROWS:
                    yield piece
                    piece = _Piece(piece.number + 1)
        except UserError as error:
            self.scan.damaged(error.value, error.rule, error.remedy)
            raise
        except Exception as error:
            self.scan.damaged(shown(self.splits[index].uri), described(error), "Repair or remove the file.")
            raise
        piece.is_last = True
        yield piece

    def _decided(self, index: int, pieces: list[_Piece]) -> Iterator[pa.Table]:
        decisions = self.scan.decide([self._piece_rows(index, piece) for piece in pieces])
        name = self.splits[index].name
        for piece, decision in zip(pieces, decisions, strict=True):
            readable = [row for row in piece.rows if row.example is not None]
            rejects = (
                None if decision.is_committed else outcome_table(list(_rejects(name, piece.rows, readable, decision)))
            )
            self.scan.report(PieceName(index, piece.number), name, len(piece.rows), piece.is_last, rejects)
            queried = [
                row.example for row, code in zip(readable, decision.codes.tolist(), strict=True) if code == FIRST
            ]
            yield example_table(name, [example for example in queried if example is not None])

    def _piece_rows(self, index: int, piece: _Piece) -> PieceRows:
        split, examples = self.splits[index].name, [row.example for row in piece.rows if row.example is not None]
        found = PieceRows(
            PieceName(index, piece.number), split, len(piece.rows), piece.is_last, id_keys(one.id for one in examples)
        )
        if self.near_duplicates and split == "train":
            signatures = [signature(example.input) for example in examples]
            found = found._replace(ids=[example.id for example in examples], signatures=signatures)
        return found


def example_table(name: str, examples: Sequence[Example]) -> pa.Table:
    """Examples of a data split as a table of schema.EXAMPLE."""
    columns: list[Iterable[Any]] = [
        [name] * len(examples),
        [example.id for example in examples],
        [example.input for example in examples],
        [example.gold for example in examples],
        [example.choices for example in examples],
    ]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, EXAMPLE, strict=True)]
    return pa.table(arrays, schema=EXAMPLE)


def _rejects(name: Any, rows: Sequence[Row], readable: Sequence[Row], decision: Decision) -> Iterator[Outcome]:
    for row in rows:
        if row.example is None:
            yield rejected(name, row.id, "bad_input", row.problem, row.raw)
    for number, (row, code) in enumerate(zip(readable, decision.codes.tolist(), strict=True)):
        if code == REPEATED:
            yield rejected(name, row.id, "duplicate", "an earlier row has this id", row.raw)
        elif code == NEAR:
            detail = f"it nearly repeats {decision.repeats[number]}"
            yield rejected(name, row.id, "near_duplicate", detail, row.raw)
