"""The driver's side of `progress.json` (stage_progress.py): a context manager around the work of a stage, its manifest included.

    with ProgressFile(store, "train", "tokens", gauges=StageGauges(run.name, "train")) as live:
        live.phase("tokenising")
        with Progress("train", total, "tokens", file=live) as progress:
            progress.advance(512)

A thread writes the file when the phase changes and every two seconds (ten on an object store). It sets the gauges and keeps the terminal's
line current as well. Without an error the file is removed at the end; with one it says that the work has ended.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pipelines.errors import StageFailedError, UserError
from pipelines.runtime.stage_progress import StageName, StageProgress
from pipelines.runtime.terminal import say
from pipelines.storage.manifest import now
from pipelines.storage.process_identity import this_process
from pipelines.storage.store import PROGRESS, Store

if TYPE_CHECKING:
    from pipelines.runtime.progress import Progress

EVERY_S = 2.0
EVERY_S_ON_OBJECT_STORES = 10.0  # every write is a PUT, which costs money
_BYTES = 4096
"""Size of the file, padded with spaces. A reader on an object store asks for the size first, and must not get a part of a longer file."""
_DETAIL_CHARACTERS = 500
Clock = Callable[[], float]


@dataclass(frozen=True)
class Counted:
    """The counts of a stage at one moment. Fields as in StageProgress."""

    unit: str
    done: int
    total: int | None
    per_second: float
    seconds_left: float | None
    detail: str


class ProgressFile:
    """Writes the progress file of one stage. A driver that has lost the folder's lock writes nothing."""

    def __init__(
        self, store: Store, stage: StageName, unit: str, *, check_lock: Callable[[], None] = lambda: None,
        gauges: Callable[[int, int | None], None] = lambda done, total: None, every_s: float | None = None,
        clock: Clock = time.monotonic,
    ) -> None:  # fmt: skip
        """Write nothing yet.

        Args:
            store: the folder of the artifact.
            check_lock: raises StageFailedError if the lock is lost.
            gauges: gets `done` and `total` before each write.
        """
        self._store, self._check_lock, self._gauges, self._clock = store, check_lock, gauges, clock
        self._every_s = every_s or (EVERY_S if store.is_local else EVERY_S_ON_OBJECT_STORES)
        self._lock = threading.Lock()
        self._stopped = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._keep_writing, daemon=True, name=f"{stage}-progress")
        self._warned = False
        self._counter: Progress | None = None
        self._phase, self._phase_began = "", clock()
        self._progress = self._first(stage, unit)

    def _first(self, stage: StageName, unit: str) -> StageProgress:
        """The content before anything is counted."""
        return StageProgress(**this_process(), started=now(), stage=stage, unit=unit)

    def __enter__(self) -> Self:
        self.write()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stopped = True
        self._wake.set()
        self._thread.join()
        if error is None:
            self._gauges(self._progress.done, self._progress.total)
            self._try(self._remove)
        else:
            self._progress.ended = True
            self.write()

    def phase(self, name: str) -> None:
        """Name what the stage does from here on while it counts nothing. Empty: it counts. The thread writes it at once."""
        with self._lock:
            if name == self._phase:
                return
            self._phase, self._phase_began = name, self._clock()
        self._wake.set()

    def current_phase(self) -> tuple[str, float]:
        """The phase, and the seconds since it began."""
        with self._lock:
            return self._phase, self._clock() - self._phase_began

    def show(self, counter: Progress | None) -> None:
        """Take the counts from here. None: keep the last counts."""
        if counter is None and self._counter is not None:
            self._take(self._counter.counted())
        self._counter = counter

    def write(self) -> None:
        """Write the file and set the gauges. A failure is shown once, and ends nothing."""
        try:
            self._check_lock()
        except StageFailedError:  # the next step of a commit reports it
            return
        counter = self._counter
        if counter is not None:
            self._take(counter.counted())
            counter.refresh()
        phase, phase_s = self.current_phase()
        self._update()
        with self._lock:
            progress = self._progress
            progress.phase, progress.phase_s = phase, phase_s if phase else 0.0
            progress.updated_s = time.time()
            done, total, content = progress.done, progress.total, progress.model_dump_json().encode()
        self._gauges(done, total)
        # A full quota or a lost PUT here must not end the run: the artifact matters more than its progress.
        self._try(lambda: self._store.write(PROGRESS, content.ljust(_BYTES), durable=False))

    def _update(self) -> None:
        """Set what a stage adds to the file. Called before each write, without the lock."""

    def _take(self, counted: Counted) -> None:
        with self._lock:
            progress = self._progress
            progress.unit, progress.done, progress.total = counted.unit, counted.done, counted.total
            progress.per_second, progress.seconds_left = counted.per_second, counted.seconds_left
            progress.detail = counted.detail[:_DETAIL_CHARACTERS]

    def _keep_writing(self) -> None:
        while True:
            self._wake.wait(self._every_s)
            self._wake.clear()
            if self._stopped:
                return
            self.write()

    def _try(self, change: Callable[[], None]) -> None:
        try:
            change()
        except (OSError, UserError) as error:
            if not self._warned:
                what = f"{self._progress.stage}: {self._store.shown(PROGRESS)} cannot be written ({error})"
                say(what)
            self._warned = True

    def _remove(self) -> None:
        """Remove the file, and what a kill during a write left behind."""
        self._store.delete(PROGRESS)
        for name in self._store.unfinished():
            if name.startswith(f".{PROGRESS}."):
                self._store.delete(name)
