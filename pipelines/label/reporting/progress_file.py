"""The label stage as another process sees it: `labels/progress.json`, written by the driver while it works, and what can be read from it.

    {"format": 1, "host": "node-7", "pid": 4711, "processes": "<boot> pid:[4026531836]", "process": 88123,
     "started": "2026-01-01T12:00:00+00:00", "updated_s": 1767268800.5, "ended": false, "resumed_at_rows": 100,
     "done": 300, "total": 1000, "accepted": 290, "rejected_by_reason": {"unparsable": 10},
     "tokens": {"prompt": 30000, "output": 9000}, "rows_per_s": 20.0, "seconds_left": 35.0, "engines": {"replicas": 1}}

The file is a sign of life and decides nothing: labels are finished by their manifest, rows by the commits. It is removed when the
manifest is there. A driver that is killed leaves it; that its process is gone, or that it was not updated for 30 seconds, tells so.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

from pipelines.errors import StageFailedError, UserError
from pipelines.label.output.counts import Counts
from pipelines.label.output.writer import Commit
from pipelines.runtime.progress import Clock, RecentRate
from pipelines.storage.manifest import now, read_manifest
from pipelines.storage.process_identity import is_running, this_process
from pipelines.storage.store import Store

PROGRESS = "progress.json"
FRESH_S = 30.0
_FORMAT = 1
_EVERY_S = 2.0
_EVERY_S_ON_OBJECT_STORES = 10.0  # each write is a PUT, which is paid for
_BYTES = 4096
"""Of the file, filled up with spaces: a reader on an object store asks for the size first, and would see another content in part."""
State = Literal["finished", "running", "interrupted", "not begun"]


class ProgressFile:
    """The driver's side. A context manager around all of the work, the manifest included.

    A thread writes the file every two seconds (ten on an object store), also while nothing is finished (a scan, an engine that
    starts), and the driver's loop does not wait for it. Left without an error the file is removed; left by one it says that the work
    has ended. A driver that has lost the folder's lock leaves the file to its successor.
    """

    def __init__(
        self, store: Store, check_lock: Callable[[], None] = lambda: None, *, every_s: float | None = None,
        clock: Clock = time.monotonic,
    ) -> None:  # fmt: skip
        self._store, self._check_lock, self._clock = store, check_lock, clock
        self._every_s = every_s or (_EVERY_S if store.is_local else _EVERY_S_ON_OBJECT_STORES)
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep_writing, daemon=True, name="label-progress")
        self._warned = False
        self._content: dict[str, Any] = {
            "format": _FORMAT,
            **this_process(),
            "started": now(),
            "ended": False,
        }
        self.begin(None, 0)

    def __enter__(self) -> Self:
        self.write()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        if error is None:
            self._store.delete(PROGRESS)
            self._remove_leftovers()
        else:
            self._content["ended"] = True
            self.write()

    def begin(self, total: int | None, done: int, engines: Callable[[], Mapping[str, Any]] = dict) -> None:
        """The teacher is asked from now on: `done` of `total` rows have an outcome already. Until then, the corpus is scanned.

        `engines`: what is known of the engines, as JSON; called before each write, by another thread.
        """
        with self._lock:
            self._engines = engines
            self._recent = RecentRate(done, self._clock)
            self._content["resumed_at_rows"] = done
        self.update(done, total, 0, {}, 0, 0)

    def work_began(self, at: float) -> None:
        """The first engine was ready at this moment of the clock; rates count from there."""
        with self._lock:
            self._recent.begin(at)

    def update(
        self, done: int, total: int | None, accepted: int, rejected_by_reason: Mapping[str, int], prompt_tokens: int,
        output_tokens: int,
    ) -> None:  # fmt: skip
        """Note where the work stands: totals over all runs. Held-out rows are in `done`, `total` and the tokens. Cheap."""
        with self._lock:
            self._recent.note(done)
            self._work: dict[str, Any] = {
                "done": done,
                "total": total,
                "accepted": accepted,
                "rejected_by_reason": dict(rejected_by_reason),
                "tokens": {"prompt": prompt_tokens, "output": output_tokens},
            }

    def write(self) -> None:
        """Write the file as things stand."""
        try:
            self._check_lock()
        except StageFailedError:  # told by the next step of a commit
            return
        with self._lock:
            left = self._recent.seconds_left(self._work["total"])
            work = self._work | {"rows_per_s": self._recent.per_s, "seconds_left": left}
        content = self._content | work | {"updated_s": time.time(), "engines": dict(self._engines())}
        try:
            self._store.write(PROGRESS, json.dumps(content).encode().ljust(_BYTES), durable=False)
        except (OSError, UserError) as error:
            # Labels matter more than their progress: a full quota or a lost PUT here must not end the run.
            if not self._warned:
                print(f"label: {self._store.shown(PROGRESS)} cannot be written ({error})", file=sys.stderr, flush=True)
            self._warned = True

    def _keep_writing(self) -> None:
        while not self._over.wait(self._every_s):
            self.write()

    def _remove_leftovers(self) -> None:
        """What a kill in the middle of a write left."""
        for name in self._store.unfinished():
            if f"{PROGRESS}." in name:
                self._store.delete(name)


@dataclass(frozen=True)
class StageStatus:
    """What a reader of the folder finds."""

    state: State
    detail: dict[str, Any]
    """finished: created, fingerprint, counts. running: the progress file's content. interrupted: rows, and total where it is known."""


def label_status(store: Store, *, wall_clock: Callable[[], float] = time.time) -> StageStatus:
    """Where the labels in a folder stand; reads only, on any filesystem.

    Raises:
        UserError: the manifest is damaged, or of another type or schema version.
    """
    progress = read_progress(store)
    if progress and is_alive(progress, wall_clock()):
        return StageStatus("running", progress)  # finished labels may be reopened, for rows with `engine_error`
    manifest = read_manifest(store, "labels")
    if manifest:
        found = {"created": manifest.created, "fingerprint": manifest.fingerprint, "counts": manifest.counts}
        return StageStatus("finished", found)
    if progress is None and not store.exists("attempt.json"):
        return StageStatus("not begun", {})
    rows, total = committed_rows(store)
    return StageStatus("interrupted", {"rows": rows, "total": total})


def finished_rows(store: Store) -> int:
    """Rows of unfinished labels that the teacher is not asked again: as the running driver reports them, else as committed."""
    progress = read_progress(store)
    return int(progress["done"]) if progress and is_alive(progress, time.time()) else committed_rows(store)[0]


def read_progress(store: Store) -> dict[str, Any] | None:
    """The progress file's content; None where there is none, or one that this version cannot read."""
    try:
        content = json.loads(store.read(PROGRESS))
    except (FileNotFoundError, ValueError):
        return None
    readable = isinstance(content, dict) and content.get("format") == _FORMAT
    return content if readable else None


def is_alive(progress: Mapping[str, Any], at: float) -> bool:
    """Whether somebody is working: where its processes can be seen the driver is looked for, elsewhere the file must be fresh."""
    if progress["ended"]:
        return False
    here = is_running(progress)
    return bool(at - progress["updated_s"] < FRESH_S) if here is None else here


def committed_rows(store: Store) -> tuple[int, int | None]:
    """(rows that the next `label` will not ask again, rows of the corpus; None before the scan is done). One read per commit."""
    tally, total = Counts(), None
    for name in store.files("commits", ".json"):
        record = Commit.from_json(store.read(name))
        tally.add(record.tally)
        if record.scan:
            total = sum(record.scan["rows"].values())
    return tally.done - tally.engine_errors, total
