"""Writing labels, so that a kill at any moment loses no finished row and leaves none twice.

One process writes: the driver. It gathers outcomes and commits them in groups. A commit k is, in this order,

    1. rejects/part-k.parquet and data/part-k.parquet (held-out rows: heldout/...), each written whole or not at all
    2. commits/k.json, naming them with their counts

A part counts only when a commit names it. Each file becomes visible atomically (artifacts.Store.write: rename on a local disk, one PUT on
an object store), and 2 happens only after 1 is durable. So a kill before 2 leaves parts that no commit names: the next run removes
them and labels their rows again; a kill after 2 leaves finished rows, which the next run reads back (ids only) and skips. When all
rows are committed, manifest.json is written, and after it the commit records, which it sums up, are removed.

`attempt.json` is written first of all: which labels are being made here. Another run with other settings is refused, never mixed in.
One driver at a time: on a local disk a lock file says so, and the lock dies with its process.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.artifacts import Store, fingerprint
from pipelines.errors import UserError
from pipelines.label.outcomes import OUTCOME
from pipelines.label.scan import Keys, id_keys, sort_keys
from pipelines.schema import LABEL, REJECT

FOLDERS = {
    ("train", True): ("data", LABEL),
    ("train", False): ("rejects", REJECT),
    ("heldout", True): ("heldout/data", LABEL),
    ("heldout", False): ("heldout/rejects", REJECT),
}
_COMMIT_ROWS = 4096
_COMMIT_EVERY_S = 5.0


@dataclass
class Tally:
    """What the committed rows come to. Sums of its parts, in any order."""

    accepted: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    heldout_answered: int = 0
    heldout_rejected: int = 0
    with_gold: int = 0
    agreeing: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    notes: Counter[str] = field(default_factory=Counter)
    content: int = 0
    """Sum modulo 2^64 of the hashes of (id, label, rationale): the same for the same labels in any order."""

    @property
    def done(self) -> int:
        """Rows with an outcome, held-out ones included."""
        return self.accepted + self.rejected.total() + self.heldout_answered + self.heldout_rejected

    def add(self, other: Tally) -> None:
        """Add another tally's counts."""
        for name, value in vars(other).items():
            if isinstance(value, Counter):
                getattr(self, name).update(value)
            else:
                setattr(self, name, getattr(self, name) + value)
        self.content %= 2**64

    @classmethod
    def of(cls, outcomes: pa.Table) -> Tally:
        """The tally of a table of outcomes."""
        train = outcomes.filter(pc.equal(outcomes["split"], "train"))
        heldout = outcomes.filter(pc.equal(outcomes["split"], "heldout"))
        accepted = train.filter(pc.is_null(train["reason"]))
        answered = heldout.filter(pc.is_null(heldout["reason"]))
        return cls(
            accepted=len(accepted),
            rejected=Counter(reason for reason in train["reason"].to_pylist() if reason),
            heldout_answered=len(answered),
            heldout_rejected=len(heldout) - len(answered),
            with_gold=len(train.filter(pc.is_valid(train["gold"]))),
            agreeing=pc.sum(train["agrees"]).as_py() or 0,
            prompt_tokens=pc.sum(outcomes["prompt_tokens"]).as_py() or 0,
            output_tokens=pc.sum(outcomes["output_tokens"]).as_py() or 0,
            notes=Counter(note for note in outcomes["note"].to_pylist() if note),
            content=sum(_row_hash(row) for row in _rows(accepted)) % 2**64,
        )


class LabelSink:
    """The labels folder while it is being written. A context manager: it holds the lock."""

    def __init__(self, store: Store, identity: Mapping[str, Any]) -> None:
        self._store, self._identity = store, dict(identity)
        self._lock: io.TextIOBase | None = None
        self._buffer: list[pa.Table] = []
        self._buffered = 0
        self._last_commit = time.monotonic()
        self._next = 0
        self.tally = Tally()
        self.done: dict[str, Keys] = {}
        self.scanned = False
        """Whether the rejects of the scan are committed already."""

    def __enter__(self) -> Self:
        self._acquire()
        self._begin()
        self._recover()
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock:
            self._lock.close()

    def add(self, outcomes: pa.Table) -> None:
        """Take outcomes; commit when there are enough of them or enough time has passed."""
        self._buffer.append(outcomes)
        self._buffered += len(outcomes)
        if self._buffered >= _COMMIT_ROWS or time.monotonic() - self._last_commit >= _COMMIT_EVERY_S:
            self.commit()

    def commit(self, *, scan: bool = False) -> None:
        """Make the rows taken so far durable, in the order that the module's docstring gives."""
        self._last_commit = time.monotonic()
        if not self._buffered and not scan:
            return
        table = pa.concat_tables(self._buffer) if self._buffer else OUTCOME.empty_table()
        self._buffer, self._buffered = [], 0
        parts = {}
        for (split, accepted), (folder, schema) in FOLDERS.items():
            chosen = _select(table, split, accepted=accepted)
            if len(chosen):
                name = f"{folder}/part-{self._next:06d}.parquet"
                self._store.write(name, _parquet(chosen, schema))
                parts[name] = len(chosen)
        tally = Tally.of(table)
        record = {"parts": parts, "tally": vars(tally), "scan": scan}
        self._store.write(f"commits/{self._next:06d}.json", json.dumps(record).encode())
        self._next += 1
        self.tally.add(tally)

    def finish(self) -> dict[str, int]:
        """Commit what is left and remove what no commit names. The parts and their rows, for the manifest."""
        self.commit()
        parts: dict[str, int] = {}
        for name in self._store.files("commits", ".json"):
            parts |= json.loads(self._store.read(name))["parts"]
        self._remove_uncommitted(set(parts))
        return parts

    def tidy(self) -> None:
        """Remove the records that the manifest has made superfluous. Call it after the manifest is written."""
        for name in [*self._store.files("commits"), "attempt.json"]:
            self._store.delete(name)

    def _acquire(self) -> None:
        if not self._store.is_local:
            return
        self._store.fs.create_dir(self._store.root, recursive=True)
        self._lock = open(self._store.path(".lock"), "w", encoding="utf-8")  # noqa: SIM115 - held until __exit__
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise UserError(
                self._store.uri, "another process is labelling into it", "Wait for it, or stop it."
            ) from error

    def _begin(self) -> None:
        wanted = fingerprint(self._identity)
        if not self._store.exists("attempt.json"):
            self._store.write("attempt.json", json.dumps({"fingerprint": wanted, "identity": self._identity}).encode())
            return
        begun = json.loads(self._store.read("attempt.json"))
        if begun["fingerprint"] != wanted:
            changed = [
                k for k in self._identity if begun["identity"].get(k) != json.loads(json.dumps(self._identity[k]))
            ]
            rule = f"it holds unfinished labels made with other settings ({', '.join(changed)} differ)"
            raise UserError(self._store.uri, rule, "Set another output, or pass --replace to discard them.")

    def _recover(self) -> None:
        """Read back what earlier runs committed."""
        names = self._store.files("commits", ".json")
        committed: set[str] = set()
        answered: set[str] = set()
        for name in names:
            record = json.loads(self._store.read(name))
            committed |= set(record["parts"])
            # A row that the scan rejects as duplicate has the id of a row that still wants its label.
            answered |= set() if record["scan"] else set(record["parts"])
            self.scanned = self.scanned or record["scan"]
            tally: dict[str, Any] = record["tally"]
            counters = {name: Counter(value) for name, value in tally.items() if isinstance(value, dict)}
            self.tally.add(Tally(**tally | counters))
        self._next = 1 + max((int(name.rpartition("/")[2].removesuffix(".json")) for name in names), default=-1)
        self._remove_uncommitted(committed)
        for split in ("train", "heldout"):
            folders = tuple(f"{FOLDERS[split, accepted][0]}/" for accepted in (True, False))
            ids = [self._ids(part) for part in sorted(answered) if part.startswith(folders)]
            keys = [id_keys(part) for part in ids]
            self.done[split] = sort_keys(np.concatenate(keys)) if keys else np.empty((0, 2), dtype=np.uint64)

    def _ids(self, part: str) -> list[str]:
        with self._store.fs.open_input_file(self._store.path(part)) as file:
            return list(pq.read_table(file, columns=["id"])["id"].to_pylist())

    def _remove_uncommitted(self, committed: set[str]) -> None:
        for folder, _ in FOLDERS.values():
            for name in self._store.files(folder):
                if name not in committed:
                    self._store.delete(name)


def _select(table: pa.Table, split: str, *, accepted: bool) -> pa.Table:
    null = pc.is_null(table["reason"])
    return table.filter(pc.and_(pc.equal(table["split"], split), null if accepted else pc.invert(null)))


def _parquet(table: pa.Table, schema: pa.Schema) -> bytes:
    buffer = io.BytesIO()
    columns = [table[name].cast(schema.field(name).type) for name in schema.names]
    pq.write_table(pa.table(columns, schema=schema), buffer, compression="zstd")
    return buffer.getvalue()


def _rows(accepted: pa.Table) -> Iterable[tuple[str, str, str]]:
    return zip(*(accepted[name].to_pylist() for name in ("id", "label", "rationale")), strict=True)


def _row_hash(row: tuple[str, str, str]) -> int:
    return int.from_bytes(hashlib.blake2b("\x00".join(row).encode(), digest_size=8).digest(), "big")
