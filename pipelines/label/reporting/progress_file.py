"""The label stage as other processes see it: `labels/progress.json`, which the driver writes while it works, and its readers.

    {"format": 1, "host": "node-7", "pid": 4711, "processes": "<boot> pid:[4026531836]", "process": 88123,
     "started": "2026-01-01T12:00:00+00:00", "updated_s": 1767268800.5, "ended": false, "resumed_at_rows": 100,
     "done": 300, "total": 1000, "accepted": 290, "rejected_by_reason": {"unparsable": 10},
     "tokens": {"prompt": 30000, "output": 9000}, "rows_per_s": 20.0, "seconds_left": 35.0,
     "engines": {"engines": 1, "busy_share": 0.97, "deaths": 0}}

The file is a sign of life and decides nothing: the manifest says whether labels are finished, the commits say which rows are. It is
removed when the manifest exists. A killed driver leaves it behind; its process is then gone, or the file is older than 30 seconds.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from pydantic import BaseModel, ValidationError

from pipelines.data.label_manifest import LabelCounts, Tokens
from pipelines.errors import StageFailedError, UserError
from pipelines.label.output.commits import ATTEMPT, COMMITS, Commit
from pipelines.label.output.counts import Counts
from pipelines.runtime.progress import Clock, RecentRate
from pipelines.storage.manifest import now, read_manifest
from pipelines.storage.process_identity import is_running, this_process
from pipelines.storage.store import Store

PROGRESS = "progress.json"
FRESH_S = 30.0
_EVERY_S = 2.0
_EVERY_S_ON_OBJECT_STORES = 10.0  # every write is a PUT, which costs money
_BYTES = 4096
"""Size of the file, padded with spaces. A reader on an object store asks for the size first, and must not get a part of a longer file."""
EngineProgress = dict[str, int | float | None]
"""`engines`, `busy_share` and `deaths`; empty if they are not known."""
State = Literal["finished", "running", "interrupted", "not begun"]


class LabelProgress(BaseModel):
    """The content of the progress file. Counts cover all runs of the stage, and held-out rows except in `accepted` and rejects."""

    format: Literal[1] = 1
    host: str
    """This and the next three: the driver (storage/process_identity.py)."""
    pid: int
    processes: str
    process: int | None
    started: str
    """ISO 8601."""
    ended: bool = False
    """The driver has ended with an error."""
    resumed_at_rows: int = 0
    done: int = 0
    total: int | None = None
    """None during the scan."""
    accepted: int = 0
    rejected_by_reason: dict[str, int] = {}
    tokens: Tokens = Tokens()
    rows_per_s: float = 0.0
    seconds_left: float | None = None
    updated_s: float = 0.0
    """POSIX time."""
    engines: EngineProgress = {}


class ProgressFile:
    """The driver's side: a context manager around all its work, the manifest included.

    A thread writes the file every two seconds (ten on an object store), also during a scan or the start of an engine. Without an error
    the file is removed at the end; with one it says that the work has ended. A driver that has lost the folder's lock writes nothing.
    """

    def __init__(
        self, store: Store, check_lock: Callable[[], None] = lambda: None, *, every_s: float | None = None,
        clock: Clock = time.monotonic,
    ) -> None:  # fmt: skip
        """`check_lock`: raises StageFailedError if the lock is lost."""
        self._store, self._check_lock, self._clock = store, check_lock, clock
        self._every_s = every_s or (_EVERY_S if store.is_local else _EVERY_S_ON_OBJECT_STORES)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_writing, daemon=True, name="label-progress")
        self._warned = False
        self._progress = LabelProgress.model_validate({**this_process(), "started": now()})
        self.begin(None, 0)

    def __enter__(self) -> Self:
        self.write()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        if error is None:
            self._store.delete(PROGRESS)
            self._remove_leftovers()
        else:
            self._progress.ended = True
            self.write()

    def begin(self, total: int | None, done: int, engines: Callable[[], EngineProgress] = dict) -> None:
        """The scan is over: `done` of `total` rows have an outcome. `engines` is called before each write, by another thread."""
        with self._lock:
            self._engines = engines
            self._recent = RecentRate(done, self._clock)
            self._progress.resumed_at_rows = done
        self.update(done, total, Counts())

    def work_began(self, at: float) -> None:
        """The first engine was ready at this moment of the clock. Rates count from there."""
        with self._lock:
            self._recent.begin(at)

    def update(self, done: int, total: int | None, counts: Counts) -> None:
        """Set the state of the work. Cheap: writes nothing."""
        with self._lock:
            self._recent.note(done)
            progress = self._progress
            progress.done, progress.total, progress.accepted = done, total, counts.accepted
            progress.rejected_by_reason = dict(counts.rejected)
            progress.tokens = Tokens(prompt=counts.prompt_tokens, output=counts.output_tokens)

    def write(self) -> None:
        """Write the file."""
        try:
            self._check_lock()
        except StageFailedError:  # the next step of a commit reports it
            return
        engines = self._engines()
        with self._lock:
            progress = self._progress
            progress.rows_per_s = self._recent.per_s
            progress.seconds_left = self._recent.seconds_left(progress.total)
            progress.updated_s, progress.engines = time.time(), engines
            content = progress.model_dump_json().encode()
        try:
            self._store.write(PROGRESS, content.ljust(_BYTES), durable=False)
        except (OSError, UserError) as error:
            # A full quota or a lost PUT here must not end the run: labels matter more than their progress.
            if not self._warned:
                print(f"label: {self._store.shown(PROGRESS)} cannot be written ({error})", file=sys.stderr, flush=True)
            self._warned = True

    def _keep_writing(self) -> None:
        while not self._stop.wait(self._every_s):
            self.write()

    def _remove_leftovers(self) -> None:
        """Remove what a kill during a write left behind."""
        for name in self._store.unfinished():
            if f"{PROGRESS}." in name:
                self._store.delete(name)


class FinishedLabels(BaseModel):
    """The summary of a labels manifest."""

    created: str
    fingerprint: str
    counts: LabelCounts


class InterruptedLabels(BaseModel):
    """What unfinished labels hold while no driver works on them."""

    rows: int
    """Rows that the next run does not send to the teacher again."""
    total: int | None
    """None before the end of the scan."""


@dataclass(frozen=True)
class LabelStatus:
    """The state of a labels folder, with its details: of `finished`, `running` and `interrupted` in this order; None: not begun."""

    state: State
    detail: FinishedLabels | LabelProgress | InterruptedLabels | None = None


def label_status(store: Store, *, wall_clock: Callable[[], float] = time.time) -> LabelStatus:
    """The state of a labels folder. Only reads, on any filesystem.

    Raises:
        UserError: the manifest is damaged, or of another type or schema version.
    """
    progress = read_progress(store)
    if progress and is_alive(progress, wall_clock()):
        return LabelStatus("running", progress)  # also finished labels, whose `engine_error` rows are retried
    manifest = read_manifest(store, "labels")
    if manifest:
        counts = LabelCounts.model_validate(manifest.counts)
        found = FinishedLabels(created=manifest.created, fingerprint=manifest.fingerprint, counts=counts)
        return LabelStatus("finished", found)
    if progress is None and not store.exists(ATTEMPT):
        return LabelStatus("not begun")
    return LabelStatus("interrupted", committed_rows(store))


def finished_rows(store: Store) -> int:
    """Rows of unfinished labels that the next run skips: as the running driver reports them, else as committed."""
    progress = read_progress(store)
    return progress.done if progress and is_alive(progress, time.time()) else committed_rows(store).rows


def read_progress(store: Store) -> LabelProgress | None:
    """The progress file. None if it is missing, or of a format that this version cannot read."""
    try:
        return LabelProgress.model_validate_json(store.read(PROGRESS))
    except (FileNotFoundError, ValidationError):
        return None


def is_alive(progress: LabelProgress, at: float) -> bool:
    """True if the driver is at work: its process runs, or, if it cannot be seen from here, the file is fresh. `at`: POSIX time."""
    if progress.ended:
        return False
    here = is_running(progress.model_dump())
    return at - progress.updated_s < FRESH_S if here is None else here


def committed_rows(store: Store) -> InterruptedLabels:
    """The committed rows, without those to retry. Reads each commit record once."""
    counts, total = Counts(), None
    for name in store.files(COMMITS, ".json"):
        record = Commit.from_json(store.read(name))
        counts.add(record.counts)
        if record.scan:
            total = sum(record.scan.rows.values())
    return InterruptedLabels(rows=counts.done - counts.engine_errors, total=total)
