"""What workers tell the user's terminal."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.train.tracking import progress_actor
from pipelines.train.tracking.progress_actor import Note, ProgressActor, _show, warner


def remote(board: ProgressActor) -> Any:
    """The board as its actor's handle has it."""

    def called(name: str) -> Any:
        return SimpleNamespace(remote=getattr(board, name))

    return SimpleNamespace(**{name: called(name) for name in ("warn", "note", "read")})


def test_a_warning_is_said_once_where_the_command_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ray.get", lambda found, **_: found)
    board, over = remote(ProgressActor()), threading.Event()
    warn = warner(board)
    for text in ("mlflow is left out", "this CPU is slow", "mlflow is left out"):
        warn(text)
    assert capsys.readouterr().err == "", "not in the worker"
    over.set()
    _show(board, "train", lambda steps: None, over)
    assert capsys.readouterr().err == "train: mlflow is left out\ntrain: this CPU is slow\n"


def test_without_a_board_it_is_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    warner(None)("this CPU is slow")
    assert capsys.readouterr().err == "train: this CPU is slow\n"


def test_the_steps_to_go_are_told_for_as_long_as_nobody_says_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.get", lambda found, **_: found)
    monkeypatch.setattr(progress_actor, "_POLL_S", 0.01)
    board, over = remote(ProgressActor()), threading.Event()
    told: list[int] = []

    def tell(steps: int) -> None:
        told.append(steps)
        if len(told) == 3:
            over.set()

    board.note.remote(Note(100, 900, 8, "step 1/9"))
    _show(board, "train", tell, over)
    assert set(told) == {8}
