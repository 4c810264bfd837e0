"""Rows of a scanned corpus that repeat earlier ones, by their id or by their input. Runs in the driver."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipelines.data.near_duplicates import NearDuplicates
from pipelines.data.reader import DataSplit
from pipelines.label.output.id_index import id_digest
from pipelines.label.positions import Positions, position, range_of, rows_of
from pipelines.label.scan_rows import ROWS_AT_A_TIME, Corpus, HalfDigests, Rejects, ScannedRows


def duplicates(name: DataSplit, corpus: Corpus, scanned: ScannedRows, rejects: Rejects) -> Positions:
    """Reject the readable rows of a data split whose id an earlier readable row of it has. Returns their positions."""
    ranges = [index for index, split in enumerate(corpus.splits) if split.name == name]
    repeated = _repeated([scanned.halves[index] for index in ranges])
    found: list[int] = []
    seen: set[bytes] = set()
    for index in ranges if len(repeated) else ():
        suspects = set(_places(scanned.halves[index], repeated)) - rows_of(scanned.unreadable, index)
        for row in corpus.rows(index) if suspects else ():
            if row.position not in suspects:
                continue
            digest = id_digest(row.id)
            if digest in seen:
                found.append(position(index, row.position))
                rejects.add(found[-1], row.id, "duplicate", "an earlier row has this id", row.raw)
            seen.add(digest)
    return np.array(found, dtype=np.int64)


def near_duplicates(corpus: Corpus, scanned: ScannedRows, rejected: Positions, rejects: Rejects) -> Positions:
    """Reject the train rows that nearly repeat an earlier row which is not `rejected`. Returns their positions."""
    assert corpus.near_duplicates is not None
    kept = NearDuplicates(corpus.near_duplicates)
    earlier: dict[int, int] = {}
    for index, signatures in enumerate(scanned.signatures):
        rejected_rows = rows_of(rejected, index)
        for row, signature in enumerate(signatures):
            if signature is None or row in rejected_rows:
                continue
            at = position(index, row)
            repeats = kept.earlier(at, signature)
            if repeats is not None:
                earlier[at] = repeats
    ids = _ids_at(corpus, set(earlier.values()))
    for index in sorted(set(map(range_of, earlier))):
        for found in corpus.rows(index):
            at = position(index, found.position)
            if at in earlier:
                detail = f"it nearly repeats {ids[earlier[at]]}"
                rejects.add(at, found.id, "near_duplicate", detail, found.raw)
    return np.array(sorted(earlier), dtype=np.int64)


def _repeated(halves: list[HalfDigests]) -> HalfDigests:
    """Digests that occur more than once, sorted."""
    ordered = np.concatenate([np.empty(0, dtype=np.uint64), *halves])
    ordered.sort()  # in place, which saves a third copy
    return np.unique(ordered[1:][ordered[1:] == ordered[:-1]])


def _places(halves: HalfDigests, repeated: HalfDigests) -> Iterator[int]:
    """Indices into `halves` of the digests in `repeated`, which is sorted and not empty. Searches some thousand at a time."""
    for start in range(0, len(halves), ROWS_AT_A_TIME):
        some = halves[start : start + ROWS_AT_A_TIME]
        nearest = repeated[np.minimum(np.searchsorted(repeated, some), len(repeated) - 1)]
        yield from (start + np.flatnonzero(nearest == some)).tolist()


def _ids_at(corpus: Corpus, positions: set[int]) -> dict[int, str]:
    """Position -> id of the row there."""
    ids: dict[int, str] = {}
    for index in sorted(set(map(range_of, positions))):
        for row in corpus.rows(index):
            at = position(index, row.position)
            if at in positions:
                ids[at] = row.id
    return ids
