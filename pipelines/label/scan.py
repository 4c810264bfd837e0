"""The first look at a corpus: every row is read once, none is shown to the teacher.

In: splits. Out: how many rows there are, and the rejects that need no teacher: rows that the task cannot read (`bad_input`) and later
rows with an id that an earlier one has (`duplicate`), and on request later rows that nearly repeat an earlier one (`near_duplicate`). A
row's position in the corpus is the index of its split << 32 | its index in the split.

The driver holds 16 bytes per row while it looks for duplicates (and one more for a moment), 8 per reject afterwards, and 16 per row whose
id occurs again. Looking for near duplicates takes some KB per row (near_duplicates.py).
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.data.near_duplicates import NearDuplicates, signature
from pipelines.data.reader import FileRange, Row, read_split
from pipelines.errors import UserError
from pipelines.label.answers.outcomes import OUTCOME, rejected
from pipelines.label.output.id_index import id_digest
from pipelines.label.output.writer import Positions, ScanRecord
from pipelines.runtime.progress import Progress
from pipelines.tasks import TaskSpec, load_task

OnRejects = Callable[[pa.Table], None]
Halves = npt.NDArray[np.uint64]
"""Half of each id's hash: 8 bytes that tell nearly all ids apart. Those they do not are read again."""

SPLIT_SHIFT = 32
_ROW_MASK = 2**SPLIT_SHIFT - 1
_BLOCK_ROWS = 4096
_BLOCK_BYTES = 4 << 20
"""Of what a reader hands on at a time, which the driver holds in full for a moment."""
_DAMAGED = -1
"""In the place of a position: the file cannot be read on; the texts are a UserError's."""
_Scanned = tuple[int, int, str | None, str | None, str | None, bytes | None]
_ROWS_AT_A_TIME = 4096
_SCANNED = pa.schema(
    [
        pa.field("position", pa.int64()),
        pa.field("half", pa.uint64()),
        pa.field("id", pa.string()),  # this and the rest: of unreadable rows only
        pa.field("problem", pa.string()),
        pa.field("raw", pa.string()),
        pa.field(
            "signature", pa.binary()
        ),  # where near duplicates are looked for; a null of a fixed width would take all of it
    ]
)


@dataclass
class _Found:
    """What reading every split found. A row's place in its split's arrays is its place in the split."""

    halves: list[Halves]
    signatures: list[list[bytes | None]]
    """Where near duplicates are looked for: of the readable train rows."""
    unreadable: Positions
    """Sorted."""


@dataclass(frozen=True)
class Corpus:
    """What is scanned. `near_duplicates`: the similarity from which a later train row is rejected, None: not looked for."""

    splits: Sequence[FileRange]
    spec: TaskSpec
    fields: Mapping[str, str]
    near_duplicates: float | None = None

    def rows(self, index: int) -> Iterator[Row]:
        """The rows of a split."""
        return read_split(self.splits[index], load_task(self.spec), self.fields)


def scan_corpus(corpus: Corpus, on_rejects: OnRejects) -> ScanRecord:
    """Read every split once, in parallel. `on_rejects` is given the rejects (outcomes.OUTCOME), some thousands at a time.

    Raises:
        UserError: a file is damaged beyond its rows.
    """
    splits = corpus.splits
    rejects = _Rejects(splits, on_rejects)
    found = _read_all(corpus, rejects)
    rows = dict.fromkeys(("train", "heldout"), 0)
    for split, halves in zip(splits, found.halves, strict=True):
        rows[split.name] += len(halves)
    passed_over = [found.unreadable]
    for name in ("train", "heldout"):
        passed_over.append(np.array(list(_duplicates(name, corpus, found, rejects)), dtype=np.int64))
    if corpus.near_duplicates is not None:
        passed_over.append(_near_duplicates(corpus, found, np.sort(np.concatenate(passed_over)), rejects))
    rejects.flush()
    return ScanRecord(rows, [dataclasses.asdict(split) for split in splits], np.sort(np.concatenate(passed_over)))


class _Rejects:
    """Rejects on their way out."""

    def __init__(self, splits: Sequence[FileRange], on_rejects: OnRejects) -> None:
        self._splits, self._on_rejects = splits, on_rejects
        self._rows: list[dict[str, Any]] = []

    def add(self, position: int, row_id: str, reason: str, detail: str, raw: str) -> None:
        self._rows.append(rejected(self._splits[position >> SPLIT_SHIFT].name, row_id, reason, detail, raw))
        if len(self._rows) >= _ROWS_AT_A_TIME:
            self.flush()

    def flush(self) -> None:
        if self._rows:
            self._on_rejects(pa.Table.from_pylist(self._rows, schema=OUTCOME))
            self._rows = []


def _read_all(corpus: Corpus, rejects: _Rejects) -> _Found:
    import ray
    from ray.data import DataContext

    count = len(corpus.splits)
    halves: list[list[Halves]] = [[np.empty(0, dtype=np.uint64)] for _ in range(count)]
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
                position = part["position"].to_numpy()
                index = int(position[0]) >> SPLIT_SHIFT
                # A split's blocks come in their order: so a row's place in the arrays is its place in the split.
                assert int(position[0]) & _ROW_MASK == sum(map(len, halves[index]))
                halves[index].append(part["half"].to_numpy().copy())  # the block goes when nothing looks at it
                if corpus.near_duplicates is not None:
                    signatures[index] += part["signature"].to_pylist()
            bad = table.filter(pc.is_valid(table["problem"]))
            unreadable.append(bad["position"].to_numpy())
            for row in bad.to_pylist():
                rejects.add(row["position"], row["id"], "bad_input", row["problem"], row["raw"])
            progress.advance(len(table))
    return _Found(_joined(halves), signatures, np.sort(np.concatenate(unreadable)))


def _joined(halves: list[list[Halves]]) -> list[Halves]:
    """One array for each split. A split's pieces go before the next one's are joined."""
    joined = []
    for pieces in halves:
        joined.append(np.concatenate(pieces))
        pieces.clear()
    return joined


def _by_split(table: pa.Table) -> Iterator[pa.Table]:
    """Its runs of rows of one split, not copied."""
    index = table["position"].to_numpy() >> SPLIT_SHIFT
    ends = [0, *(np.flatnonzero(np.diff(index)) + 1).tolist(), len(table)]
    for start, end in itertools.pairwise(ends):
        if end > start:
            yield table.slice(start, end - start)


def _check_damage(table: pa.Table) -> None:
    """Raises UserError where a file is damaged beyond its rows. Ray Data would hand on the text of the reader's error alone."""
    for row in table.filter(pc.equal(table["position"], _DAMAGED)).to_pylist():
        raise UserError(row["id"], row["problem"], row["raw"])


def _scan_split(batch: Mapping[str, npt.NDArray[np.int64]], corpus: Corpus) -> Iterator[pa.Table]:
    index = int(batch["index"][0])
    sign = corpus.near_duplicates is not None and corpus.splits[index].name == "train"
    block: list[_Scanned] = []
    try:
        for row in corpus.rows(index):
            half = int.from_bytes(id_digest(row.id)[:8], "little")
            unreadable = (row.id, row.problem, row.raw) if row.example is None else (None, None, None)
            signed = signature(row.example.input) if sign and row.example is not None else None
            block.append((index << SPLIT_SHIFT | row.position, half, *unreadable, signed))
            if len(block) == _BLOCK_ROWS:
                yield _table(block)
                block = []
    except UserError as error:
        block.append((_DAMAGED, 0, error.value, error.rule, error.remedy, None))
    yield _table(block)


def _table(block: list[_Scanned]) -> pa.Table:
    columns = list(zip(*block, strict=True)) or [()] * len(_SCANNED)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, _SCANNED, strict=True)], schema=_SCANNED
    )


def _duplicates(name: str, corpus: Corpus, found: _Found, rejects: _Rejects) -> Iterator[int]:
    """Positions of readable rows whose id an earlier readable row with the same split name has."""
    mine = [index for index, split in enumerate(corpus.splits) if split.name == name]
    ordered = np.concatenate([np.empty(0, dtype=np.uint64), *(found.halves[index] for index in mine)])
    ordered.sort()  # in place: not a third copy
    again = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    del ordered
    if not len(again):
        return
    seen: set[bytes] = set()
    for index in mine:
        suspects = set(_places(found.halves[index], again)) - _here(found.unreadable, index)
        if not suspects:
            continue
        for row in corpus.rows(index):
            if row.position not in suspects:
                continue
            digest = id_digest(row.id)
            if digest in seen:
                position = index << SPLIT_SHIFT | row.position
                rejects.add(position, row.id, "duplicate", "an earlier row has this id", row.raw)
                yield position
            seen.add(digest)


def _places(halves: Halves, again: Halves) -> Iterator[int]:
    """Where in `halves` something of `again`, which is sorted and not empty, stands. Some thousands are looked at at a time."""
    for start in range(0, len(halves), _ROWS_AT_A_TIME):
        some = halves[start : start + _ROWS_AT_A_TIME]
        nearest = again[np.minimum(np.searchsorted(again, some), len(again) - 1)]
        yield from (start + np.flatnonzero(nearest == some)).tolist()


def _near_duplicates(corpus: Corpus, found: _Found, passed_over: Positions, rejects: _Rejects) -> Positions:
    """Positions of train rows that nearly repeat an earlier one, which is none of `passed_over`."""
    assert corpus.near_duplicates is not None
    kept = NearDuplicates(corpus.near_duplicates)
    repeats: dict[int, int] = {}
    for index, signed in enumerate(found.signatures):
        elsewhere = _here(passed_over, index)
        for row, signature_ in enumerate(signed):
            if signature_ is None or row in elsewhere:
                continue
            position = index << SPLIT_SHIFT | row
            earlier = kept.earlier(position, signature_)
            if earlier is not None:
                repeats[position] = earlier
    names = _ids_at(corpus, set(repeats.values()))
    for index in sorted({position >> SPLIT_SHIFT for position in repeats}):
        for row_ in corpus.rows(index):
            position = index << SPLIT_SHIFT | row_.position
            if position in repeats:
                detail = f"it nearly repeats {names[repeats[position]]}"
                rejects.add(position, row_.id, "near_duplicate", detail, row_.raw)
    return np.array(sorted(repeats), dtype=np.int64)


def _ids_at(corpus: Corpus, positions: set[int]) -> dict[int, str]:
    """The ids of the rows at these positions."""
    ids: dict[int, str] = {}
    for index in sorted({position >> SPLIT_SHIFT for position in positions}):
        for row in corpus.rows(index):
            position = index << SPLIT_SHIFT | row.position
            if position in positions:
                ids[position] = row.id
    return ids


def _here(positions: Positions, index: int) -> set[int]:
    """The rows of one split among positions."""
    return set((positions[(positions >> SPLIT_SHIFT) == index] & _ROW_MASK).tolist())
