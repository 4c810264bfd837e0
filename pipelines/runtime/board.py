"""One live board for the stages of a command: what is done, what runs, what comes, and the time left.

      label     1 min 02 s  600 read = 599 accepted + 1 rejected
    > train           34 s  ━━━━━━━━━───────────  40,960/86,112 tokens, 1,204.3 tokens/s, 37 s left, step 40/84, loss: label 0.412
      evaluate              comes next, about 30 s
    1 min 36 s so far, about 1 min 07 s left

Without a terminal there is no board: each stage prints its lines (progress.py).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pipelines.runtime import terminal
from pipelines.runtime.durations import duration
from pipelines.runtime.progress_file import Clock

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.live import Live

    from pipelines.runtime.progress import Progress

_BAR_CHARACTERS = 20
_REUSED_S = 1.0
"""A stage that ends sooner has reused its artifact, and says nothing about this machine's speed."""


@dataclass
class _Stage:
    title: str
    expected_s: float | None
    began: float | None = None
    seconds: float | None = None
    """None until it has ended."""
    result: str = ""


class Board:
    """Shows stages in their order on the terminal while its block runs. Draws nothing if stderr is no terminal."""

    def __init__(
        self, titles: Sequence[str], expected_s: Mapping[str, float] | None = None, *, console: Console | None = None,
        clock: Clock = time.monotonic,
    ) -> None:  # fmt: skip
        """
        Args:
            expected_s: seconds that stages take on another machine. Those that have ended here correct the rest.
        """
        self._clock, self._began = clock, clock()
        self._stages = [_Stage(title, (expected_s or {}).get(title)) for title in titles]
        self._counter: Progress | None = None
        self._console = console
        self._live: Live | None = None

    def __enter__(self) -> Self:
        from rich.live import Live

        console = self._console or terminal.console()
        if console.is_terminal:
            redirect = not terminal.has_log()  # above the board, rather than over it
            self._live = Live(
                self, console=console, refresh_per_second=4, transient=True, redirect_stdout=redirect, redirect_stderr=redirect
            )  # fmt: skip
            self._live.start()
            _current.append(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._live:
            _current.remove(self)
            self._live.stop()

    def begin(self, title: str) -> None:
        """A stage starts."""
        self._stage(title).began = self._clock()

    def finish(self, title: str, result: str = "") -> None:
        """A stage has ended. `result`: one line."""
        stage = self._stage(title)
        if stage.began is None:
            raise ValueError(f"{title} has not begun")
        stage.seconds, stage.result = self._clock() - stage.began, result

    def show(self, counter: Progress | None) -> None:
        """The stage that runs, or a part of it, counts here."""
        self._counter = counter

    def seconds_left(self) -> float | None:
        """Of all stages; None if nothing is known of one of them."""
        left = 0.0
        for stage in self._stages:
            if stage.seconds is None:
                seconds = self._seconds_left_of(stage)
                if seconds is None:
                    return None
                left += seconds
        return left

    def _seconds_left_of(self, stage: _Stage) -> float | None:
        """By its own count if it runs and counts, else by what is expected. None: unknown."""
        if stage.began is not None and self._counter and self._counter.title == stage.title:  # else it counts a part
            counted = self._counter.counted().seconds_left
            if counted is not None:
                return counted
        if stage.expected_s is None:
            return None
        elapsed = self._clock() - stage.began if stage.began is not None else 0.0
        return max(stage.expected_s * self._slowness() - elapsed, 0.0)

    def __rich__(self) -> Group:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        table.add_column()  # the counts wrap, so that a narrow terminal cuts none
        comes_next = True
        for stage in self._stages:
            if stage.seconds is not None:
                result = Text(stage.result, no_wrap=True, overflow="ellipsis")
                table.add_row(Text(f"  {stage.title}"), duration(stage.seconds), result)
            elif stage.began is not None:
                elapsed = duration(round(self._clock() - stage.began))
                table.add_row(Text(f"> {stage.title}", style="bold"), elapsed, Text(self._running()))
            else:
                expected = "" if stage.expected_s is None else f"about {duration(stage.expected_s * self._slowness())}"
                texts = ["comes next"] if comes_next else []
                table.add_row(
                    Text(f"  {stage.title}", style="dim"), "", Text(", ".join([*texts, expected]).rstrip(", "))
                )
                comes_next = False
        left = self.seconds_left()
        total = f"{duration(round(self._clock() - self._began))} so far"
        return Group(
            table, Text(total if left is None else f"{total}, about {duration(round(left))} left", style="dim")
        )

    def _running(self) -> str:
        if self._counter is None:
            return ""
        counted, text = self._counter.counted(), self._counter.text()
        if not counted.total or not counted.done:
            return text
        filled = round(_BAR_CHARACTERS * min(counted.done / counted.total, 1.0))
        return f"{'━' * filled}{'─' * (_BAR_CHARACTERS - filled)}  {text}"

    def _slowness(self) -> float:
        """Seconds here for a second that was expected."""
        ended = [one for one in self._stages if one.expected_s and one.seconds and one.seconds > _REUSED_S]
        expected = sum(one.expected_s or 0.0 for one in ended)
        return sum(one.seconds or 0.0 for one in ended) / expected if expected else 1.0

    def _stage(self, title: str) -> _Stage:
        return next(stage for stage in self._stages if stage.title == title)


_current: list[Board] = []


def current_board() -> Board | None:
    """The board that is on the terminal now."""
    return _current[-1] if _current else None
