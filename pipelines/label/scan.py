"""The first look at a corpus: every row is read once, none is shown to the teacher.

In: splits. Out: how many rows there are, and the rejects that need no teacher: rows that the task cannot read (`bad_input`) and later
rows with an id that an earlier one has (`duplicate`). A row's position in the corpus is the index of its split << 32 | its index in
the split.

The driver holds 16 bytes per row while it looks for duplicates, 8 per reject afterwards, and 16 per row whose id occurs again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.corpus import Split, read_split
from pipelines.errors import UserError
from pipelines.label.ids import id_digest
from pipelines.label.outcomes import OUTCOME, rejected
from pipelines.label.sink import Positions, ScanRecord
from pipelines.progress import Progress
from pipelines.tasks import Task, TaskSpec, load_task

OnRejects = Callable[[pa.Table], None]
Halves = npt.NDArray[np.uint64]
"""Half of each id's hash: 8 bytes that tell nearly all ids apart. Those they do not are read again."""

SPLIT_SHIFT = 32
_BLOCK_ROWS = 4096
_DAMAGED = -1
"""In the place of a position: the file cannot be read on; the texts are a UserError's."""
_Scanned = tuple[int, int, str | None, str | None, str | None]
_REJECTS_AT_A_TIME = 4096
_SCANNED = pa.schema(
    [
        pa.field("position", pa.int64()),
        pa.field("half", pa.uint64()),
        pa.field("id", pa.string()),  # this and the rest: of unreadable rows only
        pa.field("problem", pa.string()),
        pa.field("raw", pa.string()),
    ]
)


def scan_corpus(
    splits: Sequence[Split], spec: TaskSpec, fields: Mapping[str, str], on_rejects: OnRejects
) -> ScanRecord:
    """Read every split once, in parallel. `on_rejects` is given the rejects (outcomes.OUTCOME), some thousands at a time."""
    rejects = _Rejects(splits, on_rejects)
    halves, unreadable = _read_all(splits, spec, fields, rejects)
    rows = dict.fromkeys(("train", "heldout"), 0)
    for split, found in zip(splits, halves, strict=True):
        rows[split.name] += len(found)
    duplicates = [
        position
        for name in ("train", "heldout")
        for position in _duplicates(name, splits, halves, unreadable, load_task(spec), fields, rejects)
    ]
    rejects.flush()
    passed_over = np.sort(np.concatenate([unreadable, np.array(duplicates, dtype=np.int64)]))
    return ScanRecord(rows, [dataclasses.asdict(split) for split in splits], passed_over)


class _Rejects:
    """Rejects on their way out."""

    def __init__(self, splits: Sequence[Split], on_rejects: OnRejects) -> None:
        self._splits, self._on_rejects = splits, on_rejects
        self._rows: list[dict[str, Any]] = []

    def add(self, position: int, row_id: str, reason: str, detail: str, raw: str) -> None:
        self._rows.append(rejected(self._splits[position >> SPLIT_SHIFT].name, row_id, reason, detail, raw))
        if len(self._rows) >= _REJECTS_AT_A_TIME:
            self.flush()

    def flush(self) -> None:
        if self._rows:
            self._on_rejects(pa.Table.from_pylist(self._rows, schema=OUTCOME))
            self._rows = []


def _read_all(
    splits: Sequence[Split], spec: TaskSpec, fields: Mapping[str, str], rejects: _Rejects
) -> tuple[list[Halves], Positions]:
    """(for each split the halves of its rows in their order; sorted positions of the unreadable rows)."""
    import ray

    items = [{"index": index} for index in range(len(splits))]
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _scan_split, fn_args=(list(splits), spec, dict(fields)), batch_size=1, batch_format="numpy"
    )
    found: list[list[Halves]] = [[] for _ in splits]
    unreadable: list[Positions] = [np.empty(0, dtype=np.int64)]
    with Progress("scan", total=None, unit="rows") as progress:
        for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            if not len(table):
                continue
            _check_damage(table)
            position, half = table["position"].to_numpy(), table["half"].to_numpy()
            for index in np.unique(position >> SPLIT_SHIFT):
                mine = position >> SPLIT_SHIFT == index
                # A split's blocks come in their order: a row's place in `found` is its place in the split.
                assert int(position[mine][0]) & (2**SPLIT_SHIFT - 1) == sum(map(len, found[index]))
                found[index].append(half[mine])
            bad = table.filter(pc.is_valid(table["problem"]))
            unreadable.append(bad["position"].to_numpy())
            for row in bad.to_pylist():
                rejects.add(row["position"], row["id"], "bad_input", row["problem"], row["raw"])
            progress.advance(len(table))
    return [np.concatenate([np.empty(0, dtype=np.uint64), *parts]) for parts in found], np.sort(
        np.concatenate(unreadable)
    )


def _check_damage(table: pa.Table) -> None:
    """Raises UserError where a file is damaged beyond its rows. Ray Data would hand on the text of the reader's error alone."""
    for row in table.filter(pc.equal(table["position"], _DAMAGED)).to_pylist():
        raise UserError(row["id"], row["problem"], row["raw"])


def _scan_split(
    batch: Mapping[str, npt.NDArray[np.int64]], splits: Sequence[Split], spec: TaskSpec, fields: Mapping[str, str]
) -> Iterator[pa.Table]:
    index = int(batch["index"][0])
    task = load_task(spec)
    block: list[_Scanned] = []
    try:
        for row in read_split(splits[index], task, fields):
            half = int.from_bytes(id_digest(row.id)[:8], "little")
            unreadable = (row.id, row.problem, row.raw) if row.example is None else (None, None, None)
            block.append((index << SPLIT_SHIFT | row.position, half, *unreadable))
            if len(block) == _BLOCK_ROWS:
                yield _table(block)
                block = []
    except UserError as error:
        block.append((_DAMAGED, 0, error.value, error.rule, error.remedy))
    yield _table(block)


def _table(block: list[_Scanned]) -> pa.Table:
    columns = list(zip(*block, strict=True)) or [()] * len(_SCANNED)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, _SCANNED, strict=True)], schema=_SCANNED
    )


def _duplicates(
    name: str,
    splits: Sequence[Split],
    halves: Sequence[Halves],
    unreadable: Positions,
    task: Task,
    fields: Mapping[str, str],
    rejects: _Rejects,
) -> Iterator[int]:
    """Positions of readable rows whose id an earlier readable row with the same split name has."""
    mine = [index for index, split in enumerate(splits) if split.name == name]
    ordered = np.sort(np.concatenate([np.empty(0, dtype=np.uint64), *(halves[index] for index in mine)]))
    again = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    del ordered
    if not len(again):
        return
    seen: set[bytes] = set()
    for index in mine:
        here = unreadable[(unreadable >> SPLIT_SHIFT) == index] & (2**SPLIT_SHIFT - 1)
        suspects = set(np.flatnonzero(np.isin(halves[index], again)).tolist()) - set(here.tolist())
        if not suspects:
            continue
        for row in read_split(splits[index], task, fields):
            position = index << SPLIT_SHIFT | row.position
            if row.position not in suspects:
                continue
            digest = id_digest(row.id)
            if digest in seen:
                rejects.add(position, row.id, "duplicate", "an earlier row has this id", row.raw)
                yield position
            seen.add(digest)
