"""Writing labels so that a kill at any moment loses no finished row and duplicates none.

One process writes, the driver, while it holds the folder's lock. It collects outcomes and commits them in groups. Commit k, in this order:

    1. parts    data/part-k.parquet, rejects/part-k.parquet (held-out rows: heldout/...), rationales/part-k.parquet,
                token_logprobs/part-k.parquet and texts/part-k.parquet
    2. record   commits/k.json: the parts with their sizes and hashes, the counts of its rows, and the pieces of the corpus whose
                rejects by the scan it has (label/scan.py)

A file becomes visible in full or not at all (`Store.write`), and a step begins when the one before it is durable. A kill before the record
leaves parts that no record names; the next run removes them and labels their rows again, from their texts if these are complete
(stored/). A kill after it leaves finished rows, which the next run reads back (recovery.py) and skips. Every few hundred commits, one
record replaces theirs.

One thread writes the commits, one after the other, while the driver collects the next one. The driver waits if a second one is due.

The next run retries rows with `engine_error`. A commit with new outcomes names the rows that it replaces (retries.py). Finished labels with
such rows stay finished until the first new outcome is committed. Then their manifest is removed, and is written again when the run is
complete.

When every row has an outcome, `compact` removes what was replaced and merges small parts, and the manifest is written. The record of all
commits stays beside it.

Memory of the driver: about 3 KB per commit, the outcomes of two, and the ids of a million rows.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from pipelines.config import LabellingConfig
from pipelines.data.reader import DataSplit
from pipelines.label.answers.outcomes import OUTCOME
from pipelines.label.output.commits import (
    ATTEMPT,
    COMMITS,
    Commit,
    PieceName,
    ScanSummary,
    record_name,
    sealed,
    write_record,
)
from pipelines.label.output.counts import Counts
from pipelines.label.output.key_files import KeyRows, remove_keys, write_keys
from pipelines.label.output.merging import merge
from pipelines.label.output.parts import delete_all
from pipelines.label.output.recovery import LabelState, recover
from pipelines.label.output.retries import compact
from pipelines.label.output.written import WrittenParts, take_retried, write_outcomes
from pipelines.storage.fingerprint import fingerprint
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import MANIFEST, Store

RECORD_EVERY = 256
"""Commits. Fewer make each resume read more files, more write the record of all commits more often."""
_KEYS_AT_A_TIME = 1_000_000


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
        self._buffered, self._scanned = 0, list[PieceName]()
        self._last_commit = time.monotonic()
        self._thread = ThreadPoolExecutor(1, "label-commits")
        self._writing: Future[tuple[Commit, KeyRows]] | None = None
        self._keys: list[KeyRows] = []
        """Of the latest commits, one entry for each."""
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

    @property
    def total(self) -> int | None:
        """Rows of the corpus, held-out rows included. None until a scan has read all of it."""
        return None if self.state.corpus_rows is None else sum(self.state.corpus_rows.values())

    @property
    def is_complete(self) -> bool:
        """True if every row of the corpus has a committed outcome, and none is to be retried."""
        return self.finished_rows == self.total

    def add(self, outcomes: pa.Table) -> None:
        """Take outcomes. Begins a commit if there are enough of them, or if enough time has passed."""
        self._buffer.append(outcomes)
        self._buffered += len(outcomes)
        late = time.monotonic() - self._last_commit >= self._settings.commit_every_s
        if self._buffered >= self._settings.commit_rows or late:
            self._begin_commit()
        elif self._writing is not None and self._writing.done():
            self._settle()

    def add_scanned(self, pieces: Sequence[PieceName], rejects: Sequence[pa.Table]) -> None:
        """Take all rejects by the scan of some pieces of the corpus. They are in one commit."""
        self._scanned += pieces
        for table in rejects:
            self._buffer.append(table)
            self._buffered += len(table)

    def finish_scan(self, rows: dict[DataSplit, int]) -> None:
        """Commit the rows of the corpus, whose rejects have all been added, and what else was taken."""
        if self.state.corpus_rows != rows:
            self._begin_commit(ScanSummary(rows))
            self._settle()
            self.state.corpus_rows = rows

    def commit(self) -> None:
        """Make the rows taken so far durable."""
        self._begin_commit()
        self._settle()

    def add_written(self, written: WrittenParts) -> None:
        """Begin the commit of parts that a shard has written."""
        self._settle()
        self.state.retried_by_shards += written.retried
        self._writing = self._thread.submit(self._record, self._next_commit(), written)

    def _begin_commit(self, scan: ScanSummary | None = None) -> None:
        self._settle()
        self._last_commit = time.monotonic()
        if not self._buffer and not self._scanned and scan is None:
            return
        outcomes = pa.concat_tables([OUTCOME.empty_table(), *self._buffer])
        commit = self._next_commit().model_copy(update={"scanned": self._scanned, "scan": scan})
        self._buffer, self._buffered, self._scanned = [], 0, []
        retried = take_retried(outcomes, self.state.to_retry)
        self._writing = self._thread.submit(self._write, commit, outcomes, retried)

    def _next_commit(self) -> Commit:
        number, self.state.next_number = self.state.next_number, self.state.next_number + 1
        previous = self.state.commits[-1].number if self.state.commits else None
        return Commit(number=number, previous=previous, fingerprint=self._fingerprint)

    def _settle(self) -> None:
        """Wait for the commit that is being written. Raises its error."""
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        commit, keys = writing.result()
        self.state.commits.append(commit)
        self._keys.append(keys)
        # Replaced, not changed: other threads read the counts.
        counts = copy.deepcopy(self.state.counts)
        counts.add(commit.counts)
        self.state.counts = counts
        self._unrecorded += 1
        if self._unrecorded >= RECORD_EVERY:
            self.check_lock()
            self._write_record()
        if sum(map(len, self._keys)) >= _KEYS_AT_A_TIME:
            self._write_keys()

    def _write(self, commit: Commit, outcomes: pa.Table, retried: pa.Table) -> tuple[Commit, KeyRows]:
        """Write a commit. Runs in the thread."""
        written = write_outcomes(self.store, commit.number, outcomes, retried, check_lock=self.check_lock)
        return self._record(commit, written)

    def _record(self, commit: Commit, written: WrittenParts) -> tuple[Commit, KeyRows]:
        """Write the record of a commit whose parts are durable. Runs in the thread."""
        parts = {name: file.rows for name, file in written.files.items()}
        commit = commit.model_copy(update={"parts": parts, "files": written.files, "tally": written.counts.as_json()})
        self.check_lock()
        if self._reopened:
            self.store.delete(MANIFEST)
            self._reopened = None
        self.store.write(record_name(commit.number), sealed(commit))
        keys = written.keys.copy()
        keys["commit"] = commit.number
        return commit, keys

    def compact(self) -> None:
        """Remove replaced rows, merge small parts, and write all records as one file. Call it when every row has an outcome."""
        self.commit()
        self.check_lock()
        before = self.state.parts
        replaced = compact(self.store, self.state.commits, self.state.next_number)
        self.state.commits = merge(self.store, replaced, self.state.next_number + 1)
        self.state.next_number += 2
        self._keys = []
        self.check_lock()
        remove_keys(self.store)  # before the record: they know the commits by their old numbers
        self._write_record()
        named = self.state.parts
        self.check_lock()
        delete_all(self.store, {*before, *(name for commit in replaced for name in commit.parts)} - set(named))

    def remove_attempt(self) -> None:
        """Remove what the manifest replaces. Call it when the manifest is written."""
        self.check_lock()
        delete_all(self.store, self.store.files(COMMITS))
        self.store.delete(ATTEMPT)

    def _write_record(self) -> None:
        write_record(self.store, self.state.commits, self.state.next_number - 1)
        self._unrecorded = 0
        self._write_keys()

    def _write_keys(self) -> None:
        """Write the ids of the commits since the last call."""
        if self._keys:
            commits = self.state.commits
            write_keys(self.store, commits[-len(self._keys)].number, commits[-1].number, self._keys)
            self._keys = []


def _is_readable(store: Store) -> bool:
    """True if the folder has an attempt."""
    try:
        return isinstance(json.loads(store.read(ATTEMPT)), dict)
    except (FileNotFoundError, ValueError):
        return False
