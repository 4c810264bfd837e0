import io
from pathlib import Path

import pytest
from rich.console import Console

from pipelines.runtime.board import Board
from pipelines.runtime.progress import Progress, RecentRate
from pipelines.runtime.progress_file import ProgressFile
from pipelines.storage.store import Store
from tests.support.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


STARTED = [(1, 100 * second) for second in range(1, 31)]


@pytest.mark.parametrize(
    ("start", "notes", "per_s", "seconds_left"),
    [
        (0, [(300, None), *((1, 10 * second) for second in range(1, 91))], 10, 910),  # the engine starts slowly
        (500, [(10, 520)], 2, 4740),  # within a minute, from the start; 500 were done by an earlier run
        (0, [*STARTED, (30, None)], 50, 140), (0, [*STARTED, (90, None)], 0, None),  # the work stopped
        (0, [(10, 1000), (10, 400)], 0, None), (0, [(10, 1000), (10, 400), (10, 500)], 10, 950),  # a checkpoint resumed
    ],
)  # fmt: skip
def test_the_rate_is_that_of_the_last_minute(
    clock: Clock, start: int, notes: list[tuple[int, int | None]], per_s: float, seconds_left: float | None
) -> None:
    """A note is made some seconds after the one before; without a count, only time passes."""
    rate = RecentRate(start, clock)
    for seconds, done in notes:
        clock.now += seconds
        if done is not None:
            rate.note(done)
    assert rate.per_s == pytest.approx(per_s, rel=0.05)
    assert rate.seconds_left(10_000) == (seconds_left and pytest.approx(seconds_left, rel=0.05))


def test_the_start_of_an_engine_does_not_count(clock: Clock) -> None:
    rate = RecentRate(500, clock)
    clock.now += 90
    ready = clock.now
    clock.now += 4
    rate.begin(ready)  # known only with the first results
    rate.note(516)
    assert rate.per_s == pytest.approx(4)


def test_many_notes_keep_few_marks(clock: Clock) -> None:
    rate = RecentRate(0, clock)
    for done in range(100_000):
        clock.now += 0.01
        rate.note(done)
        _ = rate.per_s
    assert len(rate._marks) <= 62
    assert rate.per_s == pytest.approx(100, rel=0.03)


def test_outside_a_terminal_a_line_appears_every_ten_seconds(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("label", total=2000, unit="rows", clock=clock) as progress:
        for _ in range(25):
            clock.now += 1
            progress.advance(20, detail="98.0% accepted")
    assert capsys.readouterr().err.splitlines() == [
        "label: 200/2,000 rows, 20.0 rows/s, 1 min 30 s left, 98.0% accepted",
        "label: 400/2,000 rows, 20.0 rows/s, 1 min 20 s left, 98.0% accepted",
    ]


def test_the_board_shows_what_runs_what_comes_and_the_time_left(clock: Clock) -> None:
    board = Board(("label", "train", "serve"), {"label": 10, "train": 20, "serve": 5}, clock=clock)
    board.begin("label")
    clock.now += 20  # this machine takes twice as long as expected
    board.finish("label", "600 read")
    board.begin("train")
    clock.now += 10
    assert board.seconds_left() == 30 + 10
    with Progress("tokenise", 100, "rows", clock=clock) as tokenising:
        board.show(tokenising)
        clock.now += 5
        tokenising.advance(90)
        assert board.seconds_left() == 25 + 10, "a part of a stage says nothing about the rest of it"
    clock.now -= 5
    progress = Progress("train", 200, "tokens", clock=clock)
    board.show(progress)
    clock.now += 10
    progress.advance(50, "loss: label 0.4")
    shown = io.StringIO()
    Console(file=shown, width=120).print(board)
    assert [line.rstrip() for line in shown.getvalue().splitlines()] == [
        "  label  20 s  600 read",
        "> train  20 s  ━━━━━───────────────  50/200 tokens, 5.0 tokens/s, 30 s left, loss: label 0.4",
        "  serve        comes next, about 10 s",
        "40 s so far, about 40 s left",
    ]
    narrow = io.StringIO()
    Console(file=narrow, width=60).print(board)
    assert [line.rstrip() for line in narrow.getvalue().splitlines()][1:3] == [
        "> train  20 s  ━━━━━───────────────  50/200 tokens, 5.0",
        "               tokens/s, 30 s left, loss: label 0.4",
    ]


def test_slow_work_has_a_rate_by_the_hour_once_a_part_is_done(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """Before, `0.0 cells/h` would look like stopped work."""
    with Progress("search", 8, "cells", start=2, clock=clock, window_s=float("inf")) as progress:
        for done in (0, 1, 1):
            clock.now += 160
            progress.advance(done, "finetune")
    first, _, last = capsys.readouterr().err.splitlines()
    assert first == "search: 2/8 cells, finetune"
    assert last == "search: 4/8 cells, 15.0 cells/h, 16 min 00 s left, finetune"


def test_a_phase_stands_until_work_is_done(tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    live = ProgressFile(Store(str(tmp_path)), "label", "rows", clock=clock)
    with Progress("label", 1000, "rows", start=100, clock=clock, file=live) as progress:
        live.phase("starting engine")
        for amount in (0, 0, 250):
            clock.now += 15.5
            progress.advance(amount)
        live.phase("writing the manifest")
        clock.now += 60
        progress.refresh()
    assert capsys.readouterr().err.splitlines() == [
        "label: 100/1,000 rows, starting engine, 16 s",
        "label: 100/1,000 rows, starting engine, 31 s",
        "label: 350/1,000 rows, 5.4 rows/s, 2 min 01 s left",
        "label: 350/1,000 rows, writing the manifest, 1 min 00 s",
    ]


def test_a_known_total_restarts_the_rate(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("train", None, "tokens", clock=clock) as progress:
        clock.now += 90
        progress.restart(900, 100)
        clock.now += 10
        progress.advance(100)
    assert capsys.readouterr().err == "train: 200/900 tokens, 10.0 tokens/s, 1 min 10 s left\n"
