"""Writing labels, so that a kill at any moment loses no finished row and leaves none twice.

One process writes: the driver. It gathers outcomes and commits them in groups. Commit k is, in this order,

    1. write   data/part-k.parquet, rejects/part-k.parquet (held-out rows: heldout/...), token_logprobs/part-k.parquet
    2. record  commits/k.json: the parts it adds with their rows, the parts it removes, and what its rows come to
    3. remove  the parts that it replaces (only where rows with `engine_error` have a new outcome)

A part counts when a record adds it and none removes it. Each file becomes visible whole or not at all (artifacts.Store.write: fsync and
rename on a local disk, one PUT on an object store), and each step begins when the one before it is durable. So a kill before 2 is
done leaves parts that no record names: the next run removes them and labels their rows again. A kill after 2 leaves finished rows,
which the next run reads back (ids only) and skips, and perhaps parts to be removed, which it removes.

Rows with `engine_error` are tried again by the next run. A new outcome and the removal of the old one stand in one record: the old
part is replaced by one without the row. Labels that were finished with such rows stay as they are until the first new outcome is
committed; then their manifest goes, and comes back when the run is complete.

When every row is committed, manifest.json is written, and after it the records, which it sums up, are removed: where there is a
manifest, records mean nothing. `attempt.json`, written first of all, says which labels are being made; another run with other
settings is refused, never mixed in. One driver at a time holds the folder's lock (lock.py), and makes sure of it before each step.

The driver holds 16 bytes per finished id (ids.py), and about 200 bytes per part.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.config import LabellingConfig
from pipelines.data.schema import LABEL, REJECT, TOKEN_LOGPROBS_PARQUET
from pipelines.label.answers.outcomes import token_logprobs_table
from pipelines.label.output.counts import Counts
from pipelines.label.output.id_index import Keys, id_keys, key_set
from pipelines.reuse import Attempt
from pipelines.storage.fingerprint import fingerprint
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import MANIFEST, Store

FOLDERS = {
    ("train", True): ("data", LABEL),
    ("train", False): ("rejects", REJECT),
    ("heldout", True): ("heldout/data", LABEL),
    ("heldout", False): ("heldout/rejects", REJECT),
}
TOKEN_LOGPROBS_FOLDER = "token_logprobs"
SCAN_REASONS = ("bad_input", "duplicate", "near_duplicate")
ATTEMPT = "attempt.json"
COMMITS = "commits"
SCAN_FILE = f"{COMMITS}/scan.npy"
_BASE = f"{COMMITS}/base.json"
Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ScanRecord:
    """What the scan of a corpus found (scan.py), as it is kept for the next run."""

    rows: dict[str, int]
    """Rows read, by split name."""
    splits: list[dict[str, Any]]
    passed_over: Positions
    """Sorted positions of the rejects."""


@dataclass
class Commit:
    """One record. `scan` stands in the one that ends the scan."""

    parts: dict[str, int] = field(default_factory=dict)
    """Parts added -> their rows."""
    tally: Counts = field(default_factory=Counts)
    removed: list[str] = field(default_factory=list)
    scan: dict[str, Any] | None = None

    def as_json(self) -> bytes:
        """The record as it is written."""
        return json.dumps({**vars(self), "tally": self.tally.as_json()}).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """The record as it was written."""
        tree = json.loads(data)
        return cls(**{**tree, "tally": Counts.from_json(tree["tally"])})


class LabelWriter:
    """The labels folder while it is being written, by whoever holds its lock. Making one reads back what is there.

    `reopened`: the manifest of labels that are finished but for rows with `engine_error`. `check_lock`: raises where the lock is lost.
    """

    def __init__(
        self,
        store: Store,
        identity: Mapping[str, Any],
        settings: LabellingConfig,
        reopened: Manifest | None = None,
        check_lock: Callable[[], None] = lambda: None,
    ) -> None:
        self._store, self._identity, self._settings, self._reopened = store, dict(identity), settings, reopened
        self.check_lock = check_lock
        self._buffer: list[pa.Table] = []
        self._buffered = 0
        self._last_commit = time.monotonic()
        self._next = 0
        self._scanned = Commit()
        self._retried: dict[tuple[str, str], str] = {}
        """(split, id) of each row with `engine_error` from an earlier run -> the part that holds it."""
        self.parts: dict[str, int] = {}
        """The parts that count, with their rows."""
        self.tally = Counts()
        self.done: dict[str, Keys] = {}
        """For each split the ids that want no label any more."""
        self.scan: ScanRecord | None = None
        """Where the scan is committed already."""
        self.scan_counted = reopened is not None
        """Whether the rejects of the scan count already, though it is not committed: in labels that were finished once."""
        self._begin()
        self._recover()

    @property
    def retried(self) -> int:
        """Rows that count as rejects with `engine_error` and are to be tried again."""
        return len(self._retried)

    def add(self, outcomes: pa.Table) -> None:
        """Take outcomes; commit when there are enough of them or enough time has passed."""
        self._buffer.append(outcomes)
        self._buffered += len(outcomes)
        late = time.monotonic() - self._last_commit >= self._settings.commit_every_s
        if self._buffered >= self._settings.commit_rows or late:
            self.commit()

    def commit(self) -> None:
        """Make the rows taken so far durable, in the order that the module's docstring gives."""
        self._last_commit = time.monotonic()
        if not self._buffered:
            return
        table = pa.concat_tables(self._buffer)
        self._buffer, self._buffered = [], 0
        again = self._answered_again(table)
        kept, removed = self._replaced(again)
        tally = Counts.of(table)
        for split, _ in again:
            (tally.rejected if split == "train" else tally.heldout_rejected)["engine_error"] -= 1
        self._commit(Commit(self._write_parts(table, kept), tally, sorted(removed)))
        for pair in again:
            del self._retried[pair]
        for pair, name in self._retried.items():
            if name in removed:
                self._retried[pair] = f"{name.rpartition('/')[0]}/part-{self._next - 1:06d}.parquet"

    def add_scanned(self, rejects: pa.Table) -> None:
        """Write rejects that the scan found. They count from `commit_scan` on, all together: a scan that broke off is done anew."""
        self._scanned.tally.add(Counts.of(rejects))
        self._scanned.parts.update(self._write_parts(rejects, {}))
        self._next += 1

    def commit_scan(self, scan: ScanRecord) -> None:
        """Make the scan durable, with the rejects that it found."""
        self.check_lock()
        self._store.write(SCAN_FILE, _npy(scan.passed_over))
        self._scanned.scan = {"rows": scan.rows, "splits": scan.splits}
        self._commit(self._scanned)
        self._scanned = Commit()
        self.scan = scan

    def tidy(self) -> None:
        """Remove the records that the manifest has made superfluous. Call it after the manifest is written."""
        self.check_lock()
        for name in [*self._store.files(COMMITS), ATTEMPT]:
            self._store.delete(name)

    def _commit(self, commit: Commit) -> None:
        """Steps 2 and 3, and what they change in memory."""
        self.check_lock()
        if self._reopened:
            self._store.write(_BASE, _base(self._reopened).as_json())
            self._store.delete(MANIFEST)
            self._reopened = None
        self._write_record(commit)
        for name in commit.removed:
            self._store.delete(name)
        self._take(commit)
        self._next += 1

    def _take(self, commit: Commit) -> None:
        self.parts |= commit.parts
        for name in commit.removed:
            self.parts.pop(name, None)
        self.tally.add(commit.tally)

    def _write_parts(self, table: pa.Table, kept: Mapping[str, pa.Table]) -> dict[str, int]:
        """Step 1. `kept`: for each folder the rows of replaced parts that stay."""
        self.check_lock()
        parts = {}
        for (split, accepted), (folder, schema) in FOLDERS.items():
            chosen = _columns(_select(table, split, accepted=accepted), schema)
            if folder in kept:
                chosen = pa.concat_tables([kept[folder], chosen])
            if len(chosen):
                name = f"{folder}/part-{self._next:06d}.parquet"
                self._store.write(name, _parquet(chosen))
                parts[name] = len(chosen)
        logprobs = token_logprobs_table(table)
        if len(logprobs):
            name = f"{TOKEN_LOGPROBS_FOLDER}/part-{self._next:06d}.parquet"
            self._store.write(name, _parquet(logprobs, **TOKEN_LOGPROBS_PARQUET))
            parts[name] = len(logprobs)
        return parts

    def _write_record(self, commit: Commit) -> None:
        """Step 2."""
        self._store.write(f"{COMMITS}/{self._next:06d}.json", commit.as_json())

    def _answered_again(self, table: pa.Table) -> list[tuple[str, str]]:
        if not self._retried:
            return []
        pairs = zip(table["split"].to_pylist(), table["id"].to_pylist(), strict=True)
        return [pair for pair in pairs if pair in self._retried]

    def _replaced(self, again: list[tuple[str, str]]) -> tuple[dict[str, pa.Table], set[str]]:
        """(rows that stay of the parts that go, by folder; the parts that go)."""
        kept: dict[str, list[pa.Table]] = {}
        removed = {self._retried[pair] for pair in again}
        for name in sorted(removed):
            gone = pa.array([row for split, row in again if self._retried[split, row] == name], pa.string())
            old = self._read(name, REJECT.names)
            stays = pc.invert(pc.and_(pc.is_in(old["id"], gone), pc.equal(old["reason"], "engine_error")))
            kept.setdefault(name.rpartition("/")[0], []).append(old.filter(stays))
        return {folder: pa.concat_tables(tables) for folder, tables in kept.items()}, removed

    def _begin(self) -> None:
        self.check_lock()
        wanted = fingerprint(self._identity)
        if self._reopened or not self._store.exists(ATTEMPT):
            self._store.write(ATTEMPT, json.dumps({"fingerprint": wanted, "identity": self._identity}).encode())

    def _recover(self) -> None:
        """Read back what earlier runs committed, and remove what they did not."""
        if self._reopened:
            for name in self._store.files(COMMITS):
                self._store.delete(name)
            commits = [_base(self._reopened)]
            last = -1
        else:
            names = self._store.files(COMMITS, ".json")
            commits = [Commit.from_json(self._store.read(name)) for name in names]
            self.scan_counted = _BASE in names
            last = max((_number(name) for name in names if name != _BASE), default=-1)
        for commit in commits:
            self.parts |= commit.parts
            self.tally.add(commit.tally)
            if commit.scan:
                self.scan = self._load_scan(commit.scan)
        for name in {name for commit in commits for name in commit.removed}:
            self.parts.pop(name, None)
        self._remove_leftovers()
        self._next = 1 + max([last, *(_number(name) for name in self.parts)])
        self._index()

    def _load_scan(self, record: Mapping[str, Any]) -> ScanRecord:
        passed_over = np.load(io.BytesIO(self._store.read(SCAN_FILE)), allow_pickle=False)
        return ScanRecord(record["rows"], record["splits"], passed_over)

    def _index(self) -> None:
        """Which rows want no label any more, and which rows with `engine_error` are to be tried again."""
        for split in ("train", "heldout"):
            folders = tuple(f"{FOLDERS[split, accepted][0]}/" for accepted in (True, False))
            mine = [name for name in sorted(self.parts) if name.startswith(folders)]
            self.done[split] = key_set(
                (self._answered(name, split) for name in mine), sum(self.parts[name] for name in mine)
            )

    def _answered(self, name: str, split: str) -> Keys:
        """The ids of a part whose rows the teacher answered. What the scan rejects is passed over by its position instead:
        a `duplicate` or an unreadable row may have the id of a row that wants its label."""
        if "rejects/" not in name:
            return id_keys(self._read(name, ["id"])["id"].to_pylist())
        rows = self._read(name, ["id", "reason"])
        failed = rows.filter(pc.equal(rows["reason"], "engine_error"))
        self._retried |= {(split, row): name for row in failed["id"].to_pylist()}
        answered = rows.filter(pc.invert(pc.is_in(rows["reason"], pa.array([*SCAN_REASONS, "engine_error"]))))
        return id_keys(answered["id"].to_pylist())

    def _read(self, name: str, columns: list[str]) -> pa.Table:
        with self._store.fs.open_input_file(self._store.path(name)) as file:
            return pq.read_table(file, columns=columns)

    def _remove_leftovers(self) -> None:
        """Parts that no record names, and files that were being written when a run was killed."""
        leftovers = [
            name
            for folder in (*(folder for folder, _ in FOLDERS.values()), TOKEN_LOGPROBS_FOLDER)
            for name in self._store.files(folder)
            if name not in self.parts
        ]
        leftovers += self._store.unfinished()
        # Now, and not before the records were read: a driver that slept meanwhile would remove what its successor has committed.
        self.check_lock()
        for name in set(leftovers):
            self._store.delete(name)


def read_attempt(store: Store) -> Attempt | None:
    """What the unfinished labels in a folder were begun for, None if there are none."""
    return Attempt(**json.loads(store.read(ATTEMPT))) if store.exists(ATTEMPT) else None


def _base(manifest: Manifest) -> Commit:
    """All of finished labels as one commit."""
    return Commit(dict(manifest.details["parts"]), Counts.from_json(manifest.details["tally"]))


def _number(name: str) -> int:
    return int(name.rpartition("/")[2].partition(".")[0].removeprefix("part-"))


def _select(table: pa.Table, split: str, *, accepted: bool) -> pa.Table:
    null = pc.is_null(table["reason"])
    return table.filter(pc.and_(pc.equal(table["split"], split), null if accepted else pc.invert(null)))


def _columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    return pa.table([table[name].cast(schema.field(name).type) for name in schema.names], schema=schema)


def _parquet(table: pa.Table, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **{"compression": "zstd", **settings})
    return buffer.getvalue()


def _npy(array: Positions) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
