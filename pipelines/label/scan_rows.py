"""Reading every row of a corpus on Ray, for the scan. Finds the rows that the task cannot read."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.data.near_duplicates import signature
from pipelines.data.reader import FileRange, Row, read_split
from pipelines.errors import UserError
from pipelines.label.answers.outcomes import Outcome, outcome_table, rejected
from pipelines.label.output.id_index import id_digest
from pipelines.label.positions import Positions, position, range_of, ranges_of, row_of
from pipelines.runtime.progress import Progress
from pipelines.storage.filesystems import shown
from pipelines.tasks import TaskSpec, load_task
from pipelines.tasks.failures import described

OnRejects = Callable[[pa.Table], None]
HalfDigests = npt.NDArray[np.uint64]
"""8 of the 16 bytes of id digests. They separate nearly all ids; rows whose halves collide are read again."""

ROWS_AT_A_TIME = 4096
_BLOCK_BYTES = 4 << 20
"""Of a reader's block. The driver holds a block in full for a moment."""
_DAMAGED = -1
"""Instead of a position: the file cannot be read any further, and the texts of the row are those of a UserError."""
_SCANNED = pa.schema(
    [
        pa.field("position", pa.int64()),
        pa.field("half", pa.uint64()),
        pa.field("id", pa.string()),  # like problem and raw: of unreadable rows only
        pa.field("problem", pa.string()),
        pa.field("raw", pa.string()),
        pa.field("signature", pa.binary()),  # of near duplicates; not of fixed size, whose nulls would take it in full
    ]
)
_ScannedRow = tuple[int, int, str | None, str | None, str | None, bytes | None]
"""In the order of _SCANNED."""


@dataclass(frozen=True)
class Corpus:
    """The corpus to scan."""

    splits: Sequence[FileRange]
    spec: TaskSpec
    fields: Mapping[str, str]
    """`corpus.fields`."""
    near_duplicates: float | None = None
    """Similarity from which a later train row is rejected; None: do not look for near duplicates."""

    def rows(self, index: int) -> Iterator[Row]:
        """The rows of one file range."""
        return read_split(self.splits[index], load_task(self.spec), self.fields)


@dataclass
class ScannedRows:
    """What reading all file ranges found. Each list has one entry per file range, in which a row's index is its index in the range."""

    halves: list[HalfDigests]
    signatures: list[list[bytes | None]]
    """Of readable train rows, if near duplicates are wanted."""
    unreadable: Positions
    """Sorted."""


class Rejects:
    """Collects rejects and passes them on as tables (outcomes.OUTCOME) of some thousand rows."""

    def __init__(self, splits: Sequence[FileRange], on_rejects: OnRejects) -> None:
        self._splits, self._on_rejects = splits, on_rejects
        self._rows: list[Outcome] = []

    def add(self, at: int, row_id: str, reason: str, detail: str, raw: str) -> None:
        """Reject the row at a position."""
        self._rows.append(rejected(self._splits[range_of(at)].name, row_id, reason, detail, raw))
        if len(self._rows) >= ROWS_AT_A_TIME:
            self.flush()

    def flush(self) -> None:
        """Pass on what is left."""
        if self._rows:
            self._on_rejects(outcome_table(self._rows))
            self._rows = []


def read_rows(corpus: Corpus, rejects: Rejects) -> ScannedRows:
    """Read every file range once. Rejects unreadable rows. Raises UserError if a file as a whole cannot be read."""
    import ray
    from ray.data import DataContext

    count = len(corpus.splits)
    halves: list[list[HalfDigests]] = [[np.empty(0, dtype=np.uint64)] for _ in range(count)]
    signatures: list[list[bytes | None]] = [[] for _ in range(count)]
    unreadable: list[Positions] = [np.empty(0, dtype=np.int64)]
    context = copy.deepcopy(DataContext.get_current())
    context.target_max_block_size = _BLOCK_BYTES
    with DataContext.current(context), Progress("scan", total=None, unit="rows") as progress:
        dataset = ray.data.from_items([{"index": i} for i in range(count)], override_num_blocks=count).map_batches(
            _scan_split, fn_args=(corpus,), batch_size=1, batch_format="numpy"
        )
        for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            _check_damage(table)
            for part in _by_split(table):
                first = part["position"][0].as_py()
                index = range_of(first)
                # The blocks of a range arrive in order, so a row's index in these arrays is its index in the range.
                assert row_of(first) == sum(map(len, halves[index]))
                halves[index].append(part["half"].to_numpy().copy())  # a view would keep the whole block in memory
                if corpus.near_duplicates is not None:
                    signatures[index] += part["signature"].to_pylist()
            bad = table.filter(pc.is_valid(table["problem"]))
            unreadable.append(bad["position"].to_numpy())
            for row in bad.to_pylist():
                rejects.add(row["position"], row["id"], "bad_input", row["problem"], row["raw"])
            progress.advance(len(table))
    return ScannedRows(_joined(halves), signatures, np.sort(np.concatenate(unreadable)))


def _joined(halves: list[list[HalfDigests]]) -> list[HalfDigests]:
    """One array per file range. Frees the pieces of each range before the next one is joined."""
    joined = []
    for pieces in halves:
        joined.append(np.concatenate(pieces))
        pieces.clear()
    return joined


def _by_split(table: pa.Table) -> Iterator[pa.Table]:
    """Slices of consecutive rows of one file range, without a copy."""
    index = ranges_of(table["position"].to_numpy())
    ends = [0, *(np.flatnonzero(np.diff(index)) + 1).tolist(), len(table)]
    for start, end in itertools.pairwise(ends):
        if end > start:
            yield table.slice(start, end - start)


def _check_damage(table: pa.Table) -> None:
    """Raise the UserError of a reader, which Ray Data would pass on as text alone."""
    for row in table.filter(pc.equal(table["position"], _DAMAGED)).to_pylist():
        raise UserError(row["id"], row["problem"], row["raw"])


def _scan_split(batch: Mapping[str, npt.NDArray[np.int64]], corpus: Corpus) -> Iterator[pa.Table]:
    """Blocks of _SCANNED. `batch`: the index of one file range."""
    index = int(batch["index"][0])
    sign = corpus.near_duplicates is not None and corpus.splits[index].name == "train"
    block: list[_ScannedRow] = []
    try:
        for row in corpus.rows(index):
            half = int.from_bytes(id_digest(row.id)[:8], "little")
            unreadable = (row.id, row.problem, row.raw) if row.example is None else (None, None, None)
            signed = signature(row.example.input) if sign and row.example is not None else None
            block.append((position(index, row.position), half, *unreadable, signed))
            if len(block) == ROWS_AT_A_TIME:
                yield _table(block)
                block = []
    except UserError as error:
        block.append((_DAMAGED, 0, error.value, error.rule, error.remedy, None))
    except Exception as error:  # noqa: BLE001 - Ray would report it without the file's name
        block.append(
            (_DAMAGED, 0, shown(corpus.splits[index].uri), described(error), "Repair or remove the file.", None)
        )
    yield _table(block)


def _table(block: list[_ScannedRow]) -> pa.Table:
    columns = list(zip(*block, strict=True)) or [()] * len(_SCANNED)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCANNED, strict=True)]
    return pa.table(arrays, schema=_SCANNED)
