"""Progress of a stage on stderr: done, rate, time left. In a terminal the row of the command's board (board.py), elsewhere a line every
ten seconds.

Rate and time left come from the last minute. So a slow start is forgotten after a minute, and the rate of stopped work falls to 0.
Work whose units take minutes sets a longer `window_s`. With a ProgressFile (progress_file.py) the same counts go to the file of the stage,
and the line shows the stage's phase while nothing is counted: `label: 0/2,000 rows, starting engine, 31 s`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from types import TracebackType
from typing import Self

from pipelines.runtime import terminal
from pipelines.runtime.board import current_board
from pipelines.runtime.durations import duration
from pipelines.runtime.progress_file import Clock, Counted, ProgressFile
from pipelines.runtime.stage_progress import counted, phase_text, rate_text

RATE_WINDOW_S = 60.0
_LINE_EVERY_S = 10.0
_MARK_EVERY_S = 1.0


class RecentRate:
    """Units per second over the window, or since the beginning if that is nearer. Keeps at most 62 marks per minute."""

    def __init__(self, done: int, clock: Clock = time.monotonic, window_s: float = RATE_WINDOW_S) -> None:
        self._clock, self._window_s = clock, window_s
        self._done = done
        self._marks: deque[tuple[float, int]] = deque([(clock(), done)])

    def begin(self, at: float) -> None:
        """Start the clock at this moment: the time before was spent on starting."""
        self._marks = deque([(at, self._marks[0][1])])

    def note(self, done: int) -> None:
        """Record the total done. Less than before (a worker resumed from its checkpoint) restarts the window."""
        now = self._clock()
        if done < self._done:
            self._marks.clear()
        self._done = done
        if not self._marks or now - self._marks[-1][0] >= _MARK_EVERY_S:
            self._marks.append((now, done))

    @property
    def per_s(self) -> float:
        """Units per second of the window up to now; 0 if nothing is done or no time has passed."""
        now = self._clock()
        # The oldest mark kept is the last one before the window, so that the window is always covered.
        while len(self._marks) > 1 and self._marks[1][0] <= now - self._window_s:
            self._marks.popleft()
        began, done = self._marks[0]
        return (self._done - done) / (now - began) if now > began else 0.0

    def seconds_left(self, total: int | None) -> float | None:
        """Seconds until `total` at this rate; None if total or rate are unknown."""
        rate = self.per_s
        return None if total is None or rate <= 0 else max(total - self._done, 0) / rate


class Progress:
    """Counts work. `total`: None if unknown. `start`: what earlier runs have done. `file`: that of the stage."""

    def __init__(
        self, title: str, total: int | None, unit: str, start: int = 0, clock: Clock = time.monotonic,
        window_s: float = RATE_WINDOW_S, file: ProgressFile | None = None,
    ) -> None:  # fmt: skip
        self.title, self.total, self.unit = title, total, unit
        self.done = self._start = start
        self._clock, self._window_s, self._file = clock, window_s, file
        self._lock = threading.RLock()  # the thread of the file draws too
        self._detail = ""
        self._recent = RecentRate(start, clock, window_s)
        self._last_line = clock()
        self._board = current_board()

    def __enter__(self) -> Self:
        if self._board:
            self._board.show(self)
        if self._file:
            self._file.show(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._file:
            self._file.show(None)
        if self._board:
            self._board.show(None)

    @property
    def rate(self) -> float:
        """Units per second over the last minute."""
        with self._lock:
            return self._recent.per_s

    def begin(self, at: float) -> None:
        """Start the rate's clock at this moment (before, an engine was starting)."""
        with self._lock:
            self._recent.begin(at)

    def restart(self, total: int, start: int) -> None:
        """The total is known now, and that earlier runs have done `start`. The rate's clock starts."""
        with self._lock:
            self.total, self.done, self._start = total, start, start
            self._recent = RecentRate(start, self._clock, self._window_s)

    def advance(self, amount: int, detail: str = "") -> None:
        """Add `amount` units, which ends the phase of the stage. `detail` ends the line."""
        with self._lock:
            self.done += amount
            self._detail = detail
            self._recent.note(self.done)
            if amount > 0 and self._file:
                self._file.phase("")
            self.refresh()

    def counted(self) -> Counted:
        """The counts now."""
        with self._lock:
            left = self._recent.seconds_left(self.total)
            return Counted(self.unit, self.done, self.total, self.rate, left, self._detail)

    def refresh(self) -> None:
        """Print a line if no board shows the counts and the last line is ten seconds old."""
        with self._lock:
            if self._board is None and self._clock() - self._last_line >= _LINE_EVERY_S:
                self._last_line = self._clock()
                terminal.say(f"{self.title}: {self.text()}")

    def text(self) -> str:
        """Counts, rate or phase, time left and detail."""
        with self._lock:
            parts = [counted(self.done, self.total, self.unit), self._rate(), self._left(), self._detail]
            return ", ".join(part for part in parts if part)

    def _rate(self) -> str:
        """The phase, or the rate. Empty before anything is counted: a rate of 0 would look like stopped work."""
        phase, seconds = self._phase()
        if phase:
            return phase_text(phase, seconds)
        if self.done == self._start:
            return ""
        return rate_text(self.rate, self.unit)

    def _left(self) -> str:
        left = None if self._phase()[0] else self._recent.seconds_left(self.total)
        return "" if left is None else f"{duration(left)} left"

    def _phase(self) -> tuple[str, float]:
        return self._file.current_phase() if self._file else ("", 0.0)
