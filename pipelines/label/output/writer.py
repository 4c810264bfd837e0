"""Writing labels so that a kill at any moment loses no finished row and duplicates none.

One process writes, the driver, while it holds the folder's lock. It collects outcomes and commits them in groups. Commit k, in this order:

    1. parts    data/part-k.parquet, rejects/part-k.parquet (held-out rows: heldout/...), token_logprobs/part-k.parquet
    2. record   commits/k.json: the parts that it adds and removes, and the counts of its rows
    3. removal  of the parts that it replaces, if `engine_error` rows have a new outcome

A file becomes visible in full or not at all (`Store.write`), and a step begins when the one before it is durable. A kill before the record
leaves parts that no record names; the next run removes them and labels their rows again. A kill after it leaves finished rows, which the
next run reads back (recovery.py) and skips, and perhaps replaced parts, which it removes.

The next run retries rows with `engine_error`. Their new outcomes and the removal of the old ones are in one record, and the old part is
replaced by one without these rows. Finished labels with such rows stay finished until the first new outcome is committed. Then their
manifest is removed, and is written again when the run is complete.

When every row has an outcome, the manifest is written, which sums up all records, and then the records are removed. Beside a manifest they
mean nothing.

Memory of the driver: 16 bytes per finished id (id_index.py), and about 200 bytes per part.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import LabellingConfig
from pipelines.data.schema import REJECT
from pipelines.label.output.commits import ATTEMPT, BASE, COMMITS, Commit, ScanRecord, ScanSummary, write_scan
from pipelines.label.output.counts import Counts
from pipelines.label.output.parts import part_name, read_part, write_parts
from pipelines.label.output.recovery import LabelState, recover
from pipelines.storage.fingerprint import fingerprint
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import MANIFEST, Store


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
            reopened: the manifest of finished labels whose `engine_error` rows are retried.
            check_lock: raises if the lock is lost.
        """
        self._store, self._settings, self._reopened, self.check_lock = store, settings, reopened, check_lock
        self._buffer: list[pa.Table] = []
        self._buffered = 0
        self._last_commit = time.monotonic()
        self._scan_commit = Commit()
        self.check_lock()
        if reopened or not store.exists(ATTEMPT):
            attempt = {"fingerprint": fingerprint(identity), "identity": dict(identity)}
            store.write(ATTEMPT, json.dumps(attempt).encode())
        self.state: LabelState = recover(store, reopened, check_lock)

    @property
    def counts(self) -> Counts:
        """Of the committed rows."""
        return self.state.counts

    @property
    def finished_rows(self) -> int:
        """Committed rows without those to retry."""
        return self.counts.done - len(self.state.to_retry)

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
        to_retry = self.state.to_retry
        keys = zip(outcomes["split"].to_pylist(), outcomes["id"].to_pylist(), strict=True) if to_retry else ()
        retried = [key for key in keys if key in to_retry]
        kept, removed = self._replaced(retried)
        counts = Counts.of(outcomes)
        for split, _ in retried:
            (counts.rejected if split == "train" else counts.heldout_rejected)["engine_error"] -= 1
        number = self.state.next_number
        self._commit(Commit(self._write_parts(outcomes, kept), counts, sorted(removed)))
        for key in retried:
            del to_retry[key]
        for key, name in to_retry.items():
            if name in removed:
                to_retry[key] = part_name(name.rpartition("/")[0], number)

    def add_scanned(self, rejects: pa.Table) -> None:
        """Write rejects of the scan. They count together from `commit_scan` on; an interrupted scan is repeated."""
        self._scan_commit.counts.add(Counts.of(rejects))
        self._scan_commit.parts.update(self._write_parts(rejects, {}))
        self.state.next_number += 1

    def commit_scan(self, scan: ScanRecord) -> None:
        """Make the scan durable, with its rejects."""
        self.check_lock()
        write_scan(self._store, scan.rejected)
        self._scan_commit.scan = ScanSummary(scan.rows, scan.splits)
        self._commit(self._scan_commit)
        self._scan_commit = Commit()
        self.state.scan = scan

    def remove_records(self) -> None:
        """Remove what the manifest replaces. Call it when the manifest is written."""
        self.check_lock()
        for name in [*self._store.files(COMMITS), ATTEMPT]:
            self._store.delete(name)

    def _write_parts(self, outcomes: pa.Table, kept: dict[str, pa.Table]) -> dict[str, int]:
        """Step 1."""
        self.check_lock()
        return write_parts(self._store, self.state.next_number, outcomes, kept)

    def _commit(self, commit: Commit) -> None:
        """Steps 2 and 3."""
        self.check_lock()
        if self._reopened:
            self._store.write(BASE, Commit.of_manifest(self._reopened).as_json())
            self._store.delete(MANIFEST)
            self._reopened = None
        self._store.write(f"{COMMITS}/{self.state.next_number:06d}.json", commit.as_json())
        for name in commit.removed:
            self._store.delete(name)
        self.state.add(commit)
        self.state.next_number += 1

    def _replaced(self, retried: list[tuple[str, str]]) -> tuple[dict[str, pa.Table], set[str]]:
        """(by folder the rows that stay of the parts to remove, the parts to remove)."""
        kept: dict[str, list[pa.Table]] = {}
        removed = {self.state.to_retry[key] for key in retried}
        for name in sorted(removed):
            ids = pa.array([row for split, row in retried if self.state.to_retry[split, row] == name], pa.string())
            old = read_part(self._store, name, REJECT.names)
            stays = pc.invert(pc.and_(pc.is_in(old["id"], ids), pc.equal(old["reason"], "engine_error")))
            kept.setdefault(name.rpartition("/")[0], []).append(old.filter(stays))
        return {folder: pa.concat_tables(tables) for folder, tables in kept.items()}, removed
