"""The parts of one commit, before its record exists. The driver writes them, or a shard (label/shards.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.data.label_manifest import PartFile
from pipelines.data.reader import DataSplit
from pipelines.label.output.counts import Counts
from pipelines.label.output.key_files import NO_ROWS, KeyRows, key_rows
from pipelines.label.output.parts import write_parts
from pipelines.label.output.retries import ToRetry, add_engine_errors
from pipelines.storage.store import Store


@dataclass(frozen=True)
class WrittenParts:
    """Parts of a label folder that no record names yet."""

    files: dict[str, PartFile]
    counts: Counts
    """A retried row counts as -1 `engine_error`."""
    retried: int = 0
    """Rows that replace an earlier `engine_error`."""
    keys: KeyRows = field(default_factory=lambda: NO_ROWS)
    """For key_files.py."""


def take_retried(outcomes: pa.Table, to_retry: Mapping[DataSplit, ToRetry]) -> pa.Table:
    """(split, id) of the rows that replace an earlier `engine_error`. They wait no longer."""
    taken = np.zeros(len(outcomes), dtype=bool)
    for split, waiting in to_retry.items():
        rows = pc.equal(outcomes["split"], split).to_numpy()
        taken[rows] = waiting.take(outcomes.filter(pa.array(rows))["id"])
    return outcomes.select(["split", "id"]).filter(pa.array(taken))


def write_outcomes(
    store: Store, number: int, outcomes: pa.Table, retried: pa.Table, *, ending: str = "", check_lock: Callable[[], None] = lambda: None
) -> WrittenParts:  # fmt: skip
    """Write the parts of a table of outcomes.

    Args:
        retried: from `take_retried`.
        ending: of the names of the parts.
        check_lock: raises if the folder's lock is lost.
    """
    counts = Counts.of(outcomes)
    for split in ("train", "heldout"):
        add_engine_errors(counts, split, -(pc.sum(pc.equal(retried["split"], split)).as_py() or 0))
    check_lock()
    files = write_parts(store, number, outcomes, retried, ending)
    return WrittenParts(files, counts, len(retried), key_rows(number, outcomes, retried))
