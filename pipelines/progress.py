"""Progress of a stage on stderr: done, rate, time left. A live bar in a terminal; a line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

_LINE_EVERY_S = 10.0


class Progress:
    """Counts work. `total` None where it is not known beforehand. `start` is what an earlier run had done."""

    def __init__(self, title: str, total: int | None, unit: str, start: int = 0) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = self._at_start = start
        self._began = self._last_line = time.monotonic()
        console = Console(stderr=True)
        self._bar: RichProgress | None = None
        if console.is_terminal:
            self._bar = RichProgress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit),
                TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
                TextColumn("{task.fields[detail]}"), console=console, transient=True,
            )  # fmt: skip
            self._task = self._bar.add_task(title, total=total, completed=start, rate="", detail="")

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()

    @property
    def rate(self) -> float:
        """Units per second since this run began."""
        return (self.done - self._at_start) / max(time.monotonic() - self._began, 1e-9)

    def advance(self, amount: int, detail: str = "") -> None:
        """Note that `amount` more units are done; `detail` is shown at the end of the line."""
        self.done += amount
        if self._bar:
            self._bar.update(self._task, completed=self.done, rate=f"{self.rate:.1f} {self.unit}/s", detail=detail)
        elif time.monotonic() - self._last_line >= _LINE_EVERY_S:
            self._last_line = time.monotonic()
            print(self._line(detail), file=sys.stderr, flush=True)

    def _line(self, detail: str) -> str:
        of = f"/{self.total:,}" if self.total is not None else ""
        left = ""
        if self.total is not None and self.rate > 0:
            left = f", {max(self.total - self.done, 0) / self.rate:.0f} s left"
        return f"{self.title}: {self.done:,}{of} {self.unit}, {self.rate:.1f} {self.unit}/s{left} {detail}".rstrip()
