"""Rate, time left and what is shown, with a clock of our own."""

from __future__ import annotations

import io
import json
import logging

import pytest
from rich.console import Console

from pipelines.runtime.progress import Progress, RecentRate


class FakeClock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def test_the_rate_forgets_a_slow_beginning(clock: FakeClock) -> None:
    rate = RecentRate(0, clock)
    clock.now += 300  # the engine starts
    done = 0
    for _ in range(90):
        clock.now += 1
        done += 10
        rate.note(done)
    assert rate.per_s == pytest.approx(10, rel=0.02)
    assert rate.seconds_left(1900) == pytest.approx(100, rel=0.02)


def test_a_start_that_is_told_apart_does_not_count(clock: FakeClock) -> None:
    rate = RecentRate(500, clock)
    clock.now += 90
    ready = clock.now
    clock.now += 4
    rate.begin(ready)  # known only when the first results are there
    rate.note(516)
    assert rate.per_s == pytest.approx(4)


def test_before_a_minute_the_rate_is_that_since_the_beginning(clock: FakeClock) -> None:
    rate = RecentRate(500, clock)  # 500 were done by an earlier run
    clock.now += 10
    rate.note(520)
    assert rate.per_s == pytest.approx(2)


def test_the_rate_of_work_that_stopped_falls_to_zero(clock: FakeClock) -> None:
    rate = RecentRate(0, clock)
    for second in range(1, 31):
        clock.now += 1
        rate.note(second * 100)
    clock.now += 30
    assert rate.per_s == pytest.approx(50, rel=0.05)
    clock.now += 60
    assert rate.per_s == 0
    assert rate.seconds_left(10_000) is None


def test_many_notes_keep_few_marks(clock: FakeClock) -> None:
    rate = RecentRate(0, clock)
    for done in range(100_000):
        clock.now += 0.01
        rate.note(done)
        _ = rate.per_s
    assert len(rate._marks) <= 62
    assert rate.per_s == pytest.approx(100, rel=0.03)


def test_going_back_to_a_checkpoint_never_gives_a_negative_rate(clock: FakeClock) -> None:
    rate = RecentRate(0, clock)
    clock.now += 10
    rate.note(1000)
    clock.now += 10
    rate.note(400)
    assert rate.per_s == 0
    clock.now += 10
    rate.note(500)
    assert rate.per_s == pytest.approx(10)


def test_outside_a_terminal_a_line_appears_every_ten_seconds(
    clock: FakeClock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("label", total=2000, unit="rows", clock=clock, console=Console(file=io.StringIO())) as progress:
        for _ in range(25):
            clock.now += 1
            progress.advance(20, detail="98.0% accepted")
    assert capsys.readouterr().err.splitlines() == [
        "label: 200/2,000 rows, 20.0 rows/s, 1 min 30 s left, 98.0% accepted",
        "label: 400/2,000 rows, 20.0 rows/s, 1 min 20 s left, 98.0% accepted",
    ]


def test_lines_are_json_with_figures_if_ray_logs_json(
    clock: FakeClock, capsys: pytest.CaptureFixture[str]
) -> None:
    from ray._common.formatters import JSONFormatter

    written, root = io.StringIO(), logging.getLogger()
    handler, before = logging.StreamHandler(written), root.level
    handler.setFormatter(JSONFormatter())
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        with Progress("label", 2000, "rows", clock=clock, console=Console(file=io.StringIO())) as progress:
            clock.now += 10
            progress.advance(200, detail="98.0% accepted")
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
    (line,) = (json.loads(text) for text in written.getvalue().splitlines())
    assert line["message"] == "label: 200/2,000 rows, 20.0 rows/s, 1 min 30 s left, 98.0% accepted"
    wanted = {"stage": "label", "done": 200, "total": 2000, "unit": "rows", "per_s": 20.0, "seconds_left": 90.0}
    assert wanted.items() <= line.items()
    assert capsys.readouterr().err == ""


def test_in_a_terminal_there_is_a_bar_with_rate_and_time_left(
    clock: FakeClock, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=160)
    with Progress("label", total=100, unit="rows", clock=clock, console=console) as progress:
        clock.now += 10
        progress.advance(20, detail="[red]not markup[/red]")
    assert "20/100 rows 2.0 rows/s" in screen.getvalue().replace("\x1b[32m", "").replace("\x1b[0m", "")
    assert "40 s left" in screen.getvalue()
    assert "[red]not markup[/red]" in screen.getvalue()
    assert capsys.readouterr().err == ""


def test_slow_work_has_a_rate_by_the_hour_and_a_time_left(
    clock: FakeClock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("search", 8, "cells", start=2, clock=clock, window_s=float("inf")) as progress:
        clock.now += 240
        progress.advance(1)
        clock.now += 240
        progress.advance(1, "finetune")
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "search: 4/8 cells, 15.0 cells/h, 16 min 00 s left, finetune"
