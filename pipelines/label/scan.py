"""The first look at a corpus: every row is read once, none is shown to the teacher.

In: splits. Out: a `Scan`: how many rows there are, and the rejects that need no teacher: rows that the task cannot read (`bad_input`) and
later rows with an id that an earlier one has (`duplicate`). The driver holds 24 bytes per row while it scans, and 8 per reject
afterwards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.corpus import Split, read_split
from pipelines.label.outcomes import OUTCOME, rejected
from pipelines.progress import Progress
from pipelines.schema import EXAMPLE
from pipelines.tasks import Task, TaskSpec, load_task

Keys = npt.NDArray[np.uint64]
Positions = npt.NDArray[np.int64]

_BLOCK_ROWS = 1024
_SPLIT_SHIFT = 32  # position in the corpus = index of the split << 32 | index of the row in the split
_SCANNED = pa.schema([("position", pa.int64()), ("high", pa.uint64()), ("low", pa.uint64()), ("id", pa.string()),
                      ("problem", pa.string()), ("raw", pa.string())])  # fmt: skip


@dataclass(frozen=True)
class Scan:
    """What there is to label. `passed_over` holds the sorted positions of the rejects."""

    rows: Mapping[str, int]
    """Rows read, by split name."""
    rejects: pa.Table
    """outcomes.OUTCOME."""
    passed_over: Positions


def id_key(example_id: str) -> tuple[int, int]:
    """128 bits of the id's hash: what an index of ids holds, 16 bytes each. Two of 10^9 ids collide with probability 10^-21."""
    digest = hashlib.blake2b(example_id.encode(), digest_size=16).digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")


def id_keys(ids: Sequence[str]) -> Keys:
    """(len(ids), 2) uint64."""
    return np.array([id_key(i) for i in ids], dtype=np.uint64).reshape(-1, 2)


def sort_keys(keys: Keys) -> Keys:
    """Keys (n, 2) in the order that `contains` needs."""
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    ordered: Keys = keys[order]
    return ordered


def contains(index: Keys, keys: Keys) -> npt.NDArray[np.bool_]:
    """Which of keys (m, 2) are in a sorted index (n, 2)."""
    found = np.zeros(len(keys), dtype=bool)
    starts = np.searchsorted(index[:, 0], keys[:, 0], side="left")
    ends = np.searchsorted(index[:, 0], keys[:, 0], side="right")
    for i in np.flatnonzero(ends > starts):
        found[i] = bool((index[starts[i] : ends[i], 1] == keys[i, 1]).any())
    return found


def scan_corpus(splits: Sequence[Split], spec: TaskSpec, fields: Mapping[str, str]) -> Scan:
    """Read every split once, in parallel."""
    import ray

    items = [{"index": index} for index in range(len(splits))]
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _scan_split, fn_args=(list(splits), spec, dict(fields)), batch_size=1, batch_format="numpy"
    )
    positions, keys, rejects = [], [], []
    with Progress("scan", total=None, unit="rows") as progress:
        for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            positions.append(table["position"].to_numpy())
            keys.append(np.stack([table["high"].to_numpy(), table["low"].to_numpy()], axis=1))
            readable = table["problem"].is_null()
            rejects += [_bad_input(row, splits) for row in table.filter(pa.compute.invert(readable)).to_pylist()]
            progress.advance(len(table))
    position, key = np.concatenate(positions), np.concatenate(keys)
    bad = np.array([r["position"] for r in rejects], dtype=np.int64)
    duplicates = _duplicates(position, key, bad, [s.name for s in splits])
    rejects += _read_duplicates(duplicates, splits, load_task(spec), fields)
    rows = dict.fromkeys(("train", "heldout"), 0)
    for index, count in zip(*np.unique(position >> _SPLIT_SHIFT, return_counts=True), strict=True):
        rows[splits[index].name] += int(count)
    table = pa.Table.from_pylist([{k: r[k] for k in OUTCOME.names} for r in rejects], schema=OUTCOME)
    return Scan(rows, table, np.sort(np.concatenate([bad, duplicates])))


def example_blocks(
    index: int,
    splits: Sequence[Split],
    spec: TaskSpec,
    fields: Mapping[str, str],
    passed_over: Positions,
    done: Mapping[str, Keys],
) -> Iterator[pa.Table]:
    """Blocks (schema.EXAMPLE) of a split's examples that still want a label: neither rejected by the scan nor done."""
    split = splits[index]
    low, high = np.searchsorted(passed_over, [index << _SPLIT_SHIFT, (index + 1) << _SPLIT_SHIFT])
    passed = set((passed_over[low:high] & (2**_SPLIT_SHIFT - 1)).tolist())
    block: list[dict[str, Any]] = []
    for row in read_split(split, load_task(spec), fields):
        if row.position in passed or row.example is None:
            continue
        example = row.example
        block.append({"split": split.name, "id": example.id, "input": example.input, "gold": example.gold,
                      "choices": list(example.choices)})  # fmt: skip
        if len(block) == _BLOCK_ROWS:
            yield _without(block, done[split.name])
            block = []
    yield _without(block, done[split.name])


def _without(block: list[dict[str, Any]], done: Keys) -> pa.Table:
    finished = contains(done, id_keys([row["id"] for row in block]))
    return pa.Table.from_pylist([r for r, f in zip(block, finished, strict=True) if not f], schema=EXAMPLE)


def _scan_split(
    batch: Mapping[str, npt.NDArray[np.int64]], splits: Sequence[Split], spec: TaskSpec, fields: Mapping[str, str]
) -> Iterator[pa.Table]:
    index = int(batch["index"][0])
    task = load_task(spec)
    block: list[dict[str, Any]] = []
    for row in read_split(splits[index], task, fields):
        high, low = id_key(row.id)
        unreadable = row.example is None
        block.append({"position": index << _SPLIT_SHIFT | row.position, "high": high, "low": low, "id": row.id if unreadable else None,
                      "problem": row.problem if unreadable else None, "raw": row.raw if unreadable else None})  # fmt: skip
        if len(block) == _BLOCK_ROWS:
            yield pa.Table.from_pylist(block, schema=_SCANNED)
            block = []
    yield pa.Table.from_pylist(block, schema=_SCANNED)


def _bad_input(row: Mapping[str, Any], splits: Sequence[Split]) -> dict[str, Any]:
    split = splits[row["position"] >> _SPLIT_SHIFT].name
    return {**rejected(split, row["id"], "bad_input", row["problem"], row["raw"]), "position": row["position"]}


def _duplicates(position: Positions, keys: Keys, bad: Positions, names: Sequence[str]) -> Positions:
    """Positions of readable rows whose id an earlier readable row of the same split name has."""
    readable = ~np.isin(position, bad)
    position, keys = position[readable], keys[readable]
    heldout = np.array([name == "heldout" for name in names])[position >> _SPLIT_SHIFT]
    order = np.lexsort((position, keys[:, 1], keys[:, 0], heldout))
    ordered, side = keys[order], heldout[order]
    same = (ordered[1:] == ordered[:-1]).all(axis=1) & (side[1:] == side[:-1])
    return np.sort(position[order][1:][same])


def _read_duplicates(
    positions: Positions, splits: Sequence[Split], task: Task, fields: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """The reject rows of duplicates, whose text the scan did not keep."""
    for index in np.unique(positions >> _SPLIT_SHIFT):
        wanted = set(positions[positions >> _SPLIT_SHIFT == index].tolist())
        for row in read_split(splits[index], task, fields):
            if (int(index) << _SPLIT_SHIFT | row.position) in wanted:
                detail = "an earlier row has this id"
                yield rejected(splits[index].name, row.id, "duplicate", detail, row.raw)
