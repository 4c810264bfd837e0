"""What workers tell the user's terminal."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.train.watch import Board, _show, warner


def remote(board: Board) -> Any:
    """The board as its actor's handle has it."""

    def called(name: str) -> Any:
        return SimpleNamespace(remote=getattr(board, name))

    return SimpleNamespace(**{name: called(name) for name in ("warn", "note", "read")})


def test_a_warning_is_said_once_where_the_command_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ray.get", lambda found, **_: found)
    board, over = remote(Board()), threading.Event()
    warn = warner(board)
    for text in ("mlflow is left out", "this CPU is slow", "mlflow is left out"):
        warn(text)
    assert capsys.readouterr().err == "", "not in the worker"
    over.set()
    _show(board, "train", over)
    assert capsys.readouterr().err == "train: mlflow is left out\ntrain: this CPU is slow\n"


def test_without_a_board_it_is_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    warner(None)("this CPU is slow")
    assert capsys.readouterr().err == "train: this CPU is slow\n"
