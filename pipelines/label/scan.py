"""The scan of a corpus, while it is labelled. One Ray actor decides in corpus order which rows are queried.

    CorpusScan    deals file ranges to readers, in corpus order
    a reader      reads its range, and sends hashes of its ids
    CorpusScan    waits for the earlier ranges, and answers: first, finished by an earlier run, or a repeat
    the reader    passes the first ones to the teacher, and reports the rejects:

        bad_input        the task cannot read the row
        duplicate        an earlier row of the data split has its id
        near_duplicate   on request: the input nearly repeats the one of an earlier row

    the driver    takes the rejects, and commits them with the pieces of the corpus that they are all rejects of

A range is cut into pieces of PIECE_ROWS rows. A commit names its pieces, so that a later run does not reject their rows twice. A reader
that Ray starts again gets the same answers.

Memory: 26 to 43 bytes per id in temporary files (id_table.py), a quarter of a byte per row, and the rejects until the driver takes them.
Signatures of near duplicates take some KB per row (data/near_duplicates.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.data.near_duplicates import NearDuplicates
from pipelines.data.reader import DataSplit
from pipelines.label.id_table import FIRST, REPEATED, Codes, IdTable
from pipelines.label.output.commits import PieceName
from pipelines.label.output.id_index import Keys

PIECE_ROWS = 8192
"""Commits name pieces by their number: another size would make other pieces of them."""
MAX_READERS = 16
"""Readers of one dataset at the same time, at most. One reads 40,000 rows of a built-in task per second on a core."""
NEAR = 3
"""Code of a near duplicate, beside those of id_table."""


class PieceRows(NamedTuple):
    """What a reader sends."""

    name: PieceName
    split: DataSplit
    rows: int
    is_last: bool
    """Of its range."""
    keys: Keys
    """Of the readable rows, as are the next two."""
    ids: Sequence[str] = ()
    """If near duplicates are wanted."""
    signatures: Sequence[bytes] = ()


class Decision(NamedTuple):
    """What a reader gets."""

    codes: Codes
    """Of the readable rows."""
    repeats: dict[int, str]
    """Index of a near duplicate -> the id of the row that it repeats."""
    is_committed: bool
    """An earlier run has committed the rejects of this piece."""


@dataclass
class ScanReport:
    """What the driver takes."""

    pieces: list[PieceName] = field(default_factory=list)
    """Whose rejects are all in `rejects`. Without those of earlier runs."""
    rejects: list[pa.Table] = field(default_factory=list)
    """Tables of outcomes.OUTCOME."""
    rows: dict[DataSplit, int] = field(default_factory=dict)
    """Rows read so far."""
    total: int | None = None
    """Rows of the corpus; an estimate by file sizes until `is_complete`. None before the first range is read."""
    is_complete: bool = False
    damage: tuple[str, str, str] | None = None
    """The parts of a UserError, if a file as a whole cannot be read."""


class CorpusScan:
    """Held by one Ray actor, `scan_actor`. It does not survive its process: the run then ends, and the next one resumes."""

    def __init__(
        self, sizes: Sequence[float], near_duplicates: float | None, committed: frozenset[PieceName] | None
    ) -> None:
        """
        Args:
            sizes: of each file range, in any unit.
            near_duplicates: similarity from which a train row is rejected; None: do not look for near duplicates.
            committed: pieces whose rejects are committed; None: all.
        """
        self._sizes, self._committed = sizes, committed
        self._ids: dict[DataSplit, IdTable] = {"train": IdTable(), "heldout": IdTable()}
        self._near = None if near_duplicates is None else NearDuplicates(near_duplicates)
        self._kept: dict[int, str] = {}
        self._dealt: dict[tuple[int, int], int] = {}
        self._next = PieceName(0, 0)
        self._turn = asyncio.Condition()
        self._decided: dict[PieceName, tuple[int, npt.NDArray[np.uint8], dict[int, str]]] = {}
        self._reported: dict[PieceName, bool] = {}
        self._ended: set[int] = set()
        self._report = ScanReport(rows={"train": 0, "heldout": 0})

    def deal(self, ticket: int, number: int) -> int | None:
        """The `number`-th range of a reader, always the same for the same ticket. None: all ranges are dealt.

        A range is dealt when a reader runs that reads it. So no reader waits for one that no reader has begun.
        """
        at = (ticket, number)
        if at not in self._dealt:
            self._dealt[at] = len(self._dealt)
        index = self._dealt[at]
        return index if index < len(self._sizes) else None

    def finish(self, split: DataSplit, keys: Keys) -> None:
        """Add ids that earlier runs have labelled, before the first row is read."""
        self._ids[split].finish(keys)

    async def decide(self, pieces: Sequence[PieceRows]) -> list[Decision]:
        """Decide on consecutive pieces of a range, after all earlier pieces of the corpus."""
        decisions = []
        for piece in pieces:
            await self._wait_for(piece)
            count, packed, repeats = self._decided[piece.name]
            codes = np.unpackbits(packed, count=2 * count).reshape(2, count)
            is_committed = self._committed is None or piece.name in self._committed
            decisions.append(Decision(codes[0] * np.uint8(2) + codes[1], repeats, is_committed))
        return decisions

    def report(self, name: PieceName, split: DataSplit, rows: int, is_last: bool, rejects: pa.Table | None) -> None:
        """Take the rejects of a piece. None if they are committed."""
        if name in self._reported:  # by a reader that Ray has started again
            return
        self._reported[name] = True
        self._report.rows[split] += rows
        if is_last:
            self._ended.add(name.range)
        if rejects is not None:
            self._report.pieces.append(name)
            if len(rejects):
                self._report.rejects.append(rejects)

    def damaged(self, value: str, rule: str, remedy: str) -> None:
        """A file as a whole cannot be read. The first one counts."""
        self._report.damage = self._report.damage or (value, rule, remedy)

    def take(self) -> ScanReport:
        """What was reported since the last call."""
        found, read = self._report, sum(self._sizes[index] for index in self._ended)
        found.is_complete = len(self._ended) == len(self._sizes)
        rows = sum(found.rows.values())
        found.total = rows if found.is_complete else round(rows * sum(self._sizes) / read) if read else None
        self._report = ScanReport(rows=dict(found.rows), damage=found.damage)
        return found

    async def _wait_for(self, piece: PieceRows) -> None:
        """Decide on a piece when it is its turn, unless it is decided."""

        def is_due() -> bool:
            return self._next == piece.name or piece.name in self._decided

        async with self._turn:
            await self._turn.wait_for(is_due)
            if piece.name not in self._decided:
                self._decide(piece)
                self._turn.notify_all()

    def _decide(self, piece: PieceRows) -> None:
        codes, repeats = self._ids[piece.split].take(piece.keys), dict[int, str]()
        if self._near is not None and piece.split == "train":
            repeats = self._near_duplicates(piece, codes)
            codes[list(repeats)] = NEAR
        # Two bits per row.
        self._decided[piece.name] = len(codes), np.packbits(np.stack([codes >> 1, codes & 1])), repeats
        file_range, number = piece.name
        self._next = PieceName(file_range + 1, 0) if piece.is_last else PieceName(file_range, number + 1)

    def _near_duplicates(self, piece: PieceRows, codes: Codes) -> dict[int, str]:
        assert self._near is not None
        repeats = {}
        for row, (code, row_id, signature) in enumerate(zip(codes, piece.ids, piece.signatures, strict=True)):
            if code == REPEATED:
                continue
            at = len(self._kept)
            earlier = self._near.earlier(at, signature)
            if earlier is None:
                self._kept[at] = row_id
            elif code == FIRST:
                repeats[row] = self._kept[earlier]
        return repeats


def scan_actor(sizes: Sequence[float], near_duplicates: float | None, committed: frozenset[PieceName] | None) -> Any:
    """A Ray actor with a CorpusScan, on this node. It needs no CPU of its own."""
    import ray

    from pipelines.runtime.nodes import on_this_node

    # All readers of all shards may wait at the same time.
    options = {"num_cpus": 0, "scheduling_strategy": on_this_node(), "max_concurrency": 100 * MAX_READERS}
    return ray.remote(**options)(CorpusScan).remote(sizes, near_duplicates, committed)
