"""Progress of a stage on stderr: done, rate, time left. A live bar in a terminal; a line every ten seconds elsewhere.

Rate and time left come from the last minute. So a slow start is forgotten after a minute, and the rate of stopped work falls to 0.
Work whose units take minutes sets a longer `window_s`.

If logging accepts INFO, the lines are log records of `raystill.progress` with their figures as fields. With
RAY_LOGGING_CONFIG_ENCODING=JSON Ray writes each as a JSON object: {"message": "label: 200/2,000 rows, ...", "stage": "label",
"done": 200, "total": 2000, "unit": "rows", "per_s": 20.0, "seconds_left": 90.0, "detail": "...", "job_id": ..., "node_id": ...}.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from pipelines.runtime.durations import duration

RATE_WINDOW_S = 60.0
_LINE_EVERY_S = 10.0
_MARK_EVERY_S = 1.0
Clock = Callable[[], float]
_log = logging.getLogger("raystill.progress")


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
    """Counts work. `total`: None if unknown. `start`: what earlier runs have done."""

    def __init__(
        self, title: str, total: int | None, unit: str, start: int = 0, clock: Clock = time.monotonic,
        console: Console | None = None, window_s: float = RATE_WINDOW_S,
    ) -> None:  # fmt: skip
        self.title, self.total, self.unit = title, total, unit
        self.done = start
        self._clock = clock
        self._recent = RecentRate(start, clock, window_s)
        self._last_line = clock()
        console = console or Console(stderr=True)
        self._bar: RichProgress | None = None
        if console.is_terminal:
            self._bar = RichProgress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit),
                TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TextColumn("{task.fields[left]}"),
                TextColumn("{task.fields[detail]}", markup=False), console=console, transient=True,
            )  # fmt: skip
            self._task = self._bar.add_task(title, total=total, completed=start, rate="", left="", detail="")

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()

    @property
    def rate(self) -> float:
        """Units per second over the last minute."""
        return self._recent.per_s

    def begin(self, at: float) -> None:
        """Start the rate's clock at this moment (before, an engine was starting)."""
        self._recent.begin(at)

    def advance(self, amount: int, detail: str = "") -> None:
        """Add `amount` units. `detail` ends the line."""
        self.done += amount
        self._recent.note(self.done)
        if self._bar:
            rate, left = self._rate(), self._left()
            self._bar.update(self._task, completed=self.done, rate=rate, left=left, detail=detail)
        elif self._clock() - self._last_line >= _LINE_EVERY_S:
            self._last_line = self._clock()
            if _log.isEnabledFor(logging.INFO):
                _log.info(self._line(detail), extra=self._fields(detail))
            else:
                print(self._line(detail), file=sys.stderr, flush=True)

    def _line(self, detail: str) -> str:
        of = f"/{self.total:,}" if self.total is not None else ""
        parts = [f"{self.title}: {self.done:,}{of} {self.unit}", self._rate(), self._left(), detail]
        return ", ".join(part for part in parts if part)

    def _fields(self, detail: str) -> dict[str, object]:
        return {
            "stage": self.title,
            "done": self.done,
            "total": self.total,
            "unit": self.unit,
            "per_s": self.rate,
            "seconds_left": self._recent.seconds_left(self.total),
            "detail": detail,
        }

    def _rate(self) -> str:
        slow = 0.0 < self.rate < 0.05  # per second, it would read as 0.0
        return f"{3600 * self.rate:.1f} {self.unit}/h" if slow else f"{self.rate:.1f} {self.unit}/s"

    def _left(self) -> str:
        left = self._recent.seconds_left(self.total)
        return "" if left is None else f"{duration(left)} left"
