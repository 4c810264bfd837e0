"""What stands beside the parts of unfinished labels: the attempt, the commit records, and the scan.

    attempt.json        the identity of the labels that are being made; written first
    commits/scan.npy    positions of the scan's rejects
    commits/base.json   the whole of finished labels whose `engine_error` rows are retried, as one record
    commits/k.json      the k-th commit

A part counts if a record adds it and no record removes it. The manifest replaces all of these.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass, field
from typing import Self

import numpy as np

from pipelines.data.label_manifest import LabelDetails
from pipelines.data.reader import DataSplit, FileRange
from pipelines.label.output.counts import Counts
from pipelines.label.positions import Positions
from pipelines.reuse import Attempt
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store

ATTEMPT = "attempt.json"
COMMITS = "commits"
SCAN_FILE = f"{COMMITS}/scan.npy"
BASE = f"{COMMITS}/base.json"


@dataclass(frozen=True)
class ScanSummary:
    """The scan in a commit record. Its rejects are in SCAN_FILE."""

    rows: dict[DataSplit, int]
    """Rows read."""
    splits: list[FileRange]


@dataclass(frozen=True)
class ScanRecord(ScanSummary):
    """Everything that a later run needs of a scan."""

    rejected: Positions
    """Sorted positions of the rejects."""


@dataclass
class Commit:
    """One commit record. Its JSON has the keys of these fields, and `tally` for `counts`."""

    parts: dict[str, int] = field(default_factory=dict)
    """Parts that it adds, with their rows."""
    counts: Counts = field(default_factory=Counts)
    """Of its rows. Negative for retried rows that have another outcome now."""
    removed: list[str] = field(default_factory=list)
    """Parts that it removes."""
    scan: ScanSummary | None = None
    """In the record that ends the scan."""

    def as_json(self) -> bytes:
        """The record as it is written."""
        scan = self.scan and {"rows": self.scan.rows, "splits": [asdict(split) for split in self.scan.splits]}
        record = {"parts": self.parts, "tally": self.counts.as_json(), "removed": self.removed, "scan": scan}
        return json.dumps(record).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """The record as it was written."""
        tree = json.loads(data)
        scan = tree["scan"] and ScanSummary(tree["scan"]["rows"], [FileRange(**s) for s in tree["scan"]["splits"]])
        return cls(tree["parts"], Counts.from_json(tree["tally"]), tree["removed"], scan)

    @classmethod
    def of_manifest(cls, manifest: Manifest) -> Self:
        """All of finished labels as one record."""
        details = LabelDetails.model_validate(manifest.details)
        return cls(details.parts, Counts.from_json(details.tally))


def read_attempt(store: Store) -> Attempt | None:
    """What the unfinished labels in a folder were begun for. None if there are none."""
    return Attempt(**json.loads(store.read(ATTEMPT))) if store.exists(ATTEMPT) else None


def write_scan(store: Store, rejected: Positions) -> None:
    """Write the positions of a scan's rejects."""
    buffer = io.BytesIO()
    np.save(buffer, rejected, allow_pickle=False)
    store.write(SCAN_FILE, buffer.getvalue())


def read_scan(store: Store, summary: ScanSummary) -> ScanRecord:
    """The committed scan."""
    rejected = np.load(io.BytesIO(store.read(SCAN_FILE)), allow_pickle=False)
    return ScanRecord(summary.rows, summary.splits, rejected)


def part_number(name: str) -> int:
    """k of `commits/k.json` and of `folder/part-k.parquet`."""
    return int(name.rpartition("/")[2].partition(".")[0].removeprefix("part-"))
