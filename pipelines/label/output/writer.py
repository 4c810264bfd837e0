"""Writing labels so that a kill at any moment loses no finished row and duplicates none.

One process writes, the driver, while it holds the folder's lock. It collects outcomes and commits them in groups. Commit k, in this order:

    1. parts    data/part-k.parquet, rejects/part-k.parquet (held-out rows: heldout/...), rationales/part-k.parquet,
                token_logprobs/part-k.parquet and texts/part-k.parquet
    2. record   commits/k.json: the parts with their sizes and hashes, and the counts of its rows

A file becomes visible in full or not at all (`Store.write`), and a step begins when the one before it is durable. A kill before the record
leaves parts that no record names; the next run removes them and labels their rows again, from their texts if these are complete
(stored/). A kill after it leaves finished rows, which the
next run reads back (recovery.py) and skips. Every few hundred commits, one record replaces theirs.

The next run retries rows with `engine_error`. A commit with new outcomes names the rows that it replaces (retries.py). Finished labels with
such rows stay finished until the first new outcome is committed. Then their manifest is removed, and is written again when the run is
complete.

When every row has an outcome, `compact` removes what was replaced, and the manifest is written. The record of all commits stays beside it.

Memory of the driver: 16 bytes per finished id (id_index.py), and about 3 KB per commit.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import LabellingConfig
from pipelines.data.label_manifest import PartFile
from pipelines.label.output.commits import (
    ATTEMPT,
    COMMITS,
    Commit,
    ScanRecord,
    ScanSummary,
    record_name,
    write_record,
    write_scan,
)
from pipelines.label.output.counts import Counts
from pipelines.label.output.parts import write_parts
from pipelines.label.output.recovery import LabelState, recover
from pipelines.label.output.retries import add_engine_errors, compact
from pipelines.storage.fingerprint import fingerprint
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import MANIFEST, Store

RECORD_EVERY = 256
"""Commits. Fewer make each resume read more files, more write the record of all commits more often."""


class LabelWriter:
    """The labels folder while its lock is held. The constructor reads back what earlier runs have committed."""

    def __init__(
        self,
        store: Store,
        identity: Mapping[str, Any],
        settings: LabellingConfig,
        reopened: Manifest | None = None,
        check_lock: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            identity: of the labels. The folder holds no others.
            reopened: the manifest of finished labels that are resumed: rows with `engine_error`, or a damaged file.
            check_lock: raises if the lock is lost.
        """
        self.store, self._settings, self._reopened, self.check_lock = store, settings, reopened, check_lock
        self._fingerprint = fingerprint(identity)
        self._buffer: list[pa.Table] = []
        self._buffered = 0
        self._last_commit = time.monotonic()
        self._scan_counts, self._scan_files = Counts(), dict[str, PartFile]()
        self.check_lock()
        begun = store.exists(ATTEMPT)
        if reopened or not _is_readable(store):
            attempt = {"fingerprint": self._fingerprint, "identity": dict(identity)}
            store.write(ATTEMPT, json.dumps(attempt).encode())
        self.state: LabelState = recover(store, reopened, check_lock, resumes=begun or reopened is not None)
        self._unrecorded = 0

    @property
    def counts(self) -> Counts:
        """Of the committed rows."""
        return self.state.counts

    @property
    def finished_rows(self) -> int:
        """Committed rows without those to retry."""
        return self.counts.done - self.state.retry_rows

    def add(self, outcomes: pa.Table) -> None:
        """Take outcomes. Commits if there are enough of them, or if enough time has passed."""
        self._buffer.append(outcomes)
        self._buffered += len(outcomes)
        late = time.monotonic() - self._last_commit >= self._settings.commit_every_s
        if self._buffered >= self._settings.commit_rows or late:
            self.commit()

    def commit(self) -> None:
        """Make the rows taken so far durable."""
        self._last_commit = time.monotonic()
        if not self._buffered:
            return
        outcomes = pa.concat_tables(self._buffer)
        self._buffer, self._buffered = [], 0
        retried = outcomes.select(["split", "id"]).filter(pa.array(self._take_retried(outcomes)))
        counts = Counts.of(outcomes)
        for split in self.state.to_retry:
            add_engine_errors(counts, split, -(pc.sum(pc.equal(retried["split"], split)).as_py() or 0))
        self.check_lock()
        files = write_parts(self.store, self.state.next_number, outcomes, retried)
        self._commit(counts, files)

    def add_scanned(self, rejects: pa.Table) -> None:
        """Write rejects of the scan. They count together from `commit_scan` on; an interrupted scan is repeated."""
        self._scan_counts.add(Counts.of(rejects))
        self.check_lock()
        self._scan_files |= write_parts(self.store, self.state.next_number, rejects)
        self.state.next_number += 1

    def commit_scan(self, scan: ScanRecord) -> None:
        """Make the scan durable, with its rejects."""
        self.check_lock()
        write_scan(self.store, scan.rejected)
        self._commit(self._scan_counts, self._scan_files, ScanSummary(scan.rows, scan.splits))
        self._scan_counts, self._scan_files = Counts(), {}
        self.state.scan = scan

    def compact(self) -> None:
        """Remove replaced rows, and write all records as one file. Call it when every row has an outcome."""
        self.check_lock()
        before = self.state.parts
        self.state.commits = compact(self.store, self.state.commits, self.state.next_number)
        self._write_record()
        named = self.state.parts
        self.check_lock()
        for name in before:
            if name not in named:
                self.store.delete(name)

    def remove_attempt(self) -> None:
        """Remove what the manifest replaces. Call it when the manifest is written."""
        self.check_lock()
        for name in [*self.store.files(COMMITS), ATTEMPT]:
            self.store.delete(name)

    def _take_retried(self, outcomes: pa.Table) -> npt.NDArray[np.bool_]:
        """(rows,) True for rows that replace an earlier `engine_error`."""
        taken = np.zeros(len(outcomes), dtype=bool)
        for split, waiting in self.state.to_retry.items():
            rows = pc.equal(outcomes["split"], split).to_numpy()
            taken[rows] = waiting.take(outcomes.filter(pa.array(rows))["id"])
        return taken

    def _commit(self, counts: Counts, files: dict[str, PartFile], scan: ScanSummary | None = None) -> None:
        """Write the record of a commit whose parts are durable."""
        self.check_lock()
        if self._reopened:
            self.store.delete(MANIFEST)
            self._reopened = None
        commit = Commit(
            number=self.state.next_number,
            previous=self.state.commits[-1].number if self.state.commits else None,
            fingerprint=self._fingerprint,
            parts={name: file.rows for name, file in files.items()},
            files=files,
            tally=counts.as_json(),
            scan=scan,
        )
        self.store.write(record_name(commit.number), commit.model_dump_json().encode())
        self.state.commits.append(commit)
        self.state.counts.add(counts)
        self.state.next_number += 1
        self._unrecorded += 1
        if self._unrecorded >= RECORD_EVERY:
            self.check_lock()
            self._write_record()

    def _write_record(self) -> None:
        write_record(self.store, self.state.commits, self.state.next_number - 1)
        self._unrecorded = 0


def _is_readable(store: Store) -> bool:
    """True if the folder has an attempt."""
    try:
        return isinstance(json.loads(store.read(ATTEMPT)), dict)
    except (FileNotFoundError, ValueError):
        return False
