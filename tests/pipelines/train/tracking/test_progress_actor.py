"""Progress and warnings of workers reach the command's terminal."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.train.tracking import progress_actor
from pipelines.train.tracking.progress_actor import ProgressActor, ProgressUpdate, _show, warn_through


@pytest.fixture
def handle(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A ProgressActor in this process, behind the interface of an actor's handle."""
    actor = ProgressActor()
    monkeypatch.setattr("ray.get", lambda value, **_: value)
    monkeypatch.setattr(progress_actor, "_POLL_S", 0.01)
    return SimpleNamespace(**{n: SimpleNamespace(remote=getattr(actor, n)) for n in ("warn", "update", "read")})


def test_a_warning_is_shown_once_in_the_commands_terminal(handle: Any, capsys: pytest.CaptureFixture[str]) -> None:
    warn, finished = warn_through(handle), threading.Event()
    for text in ("mlflow is left out", "this CPU is slow", "mlflow is left out"):
        warn(text)
    assert capsys.readouterr().err == "", "not in the worker"
    finished.set()
    _show(handle, "train", lambda steps: None, finished)
    assert capsys.readouterr().err == "train: mlflow is left out\ntrain: this CPU is slow\n"
    warn_through(None)("this CPU is slow")
    assert capsys.readouterr().err == "train: this CPU is slow\n", "without an actor, at once"


def test_steps_left_are_repeated_between_updates(handle: Any) -> None:
    steps_left: list[int] = []
    finished = threading.Event()

    def on_steps_left(steps: int) -> None:
        steps_left.append(steps)
        if len(steps_left) == 3:
            finished.set()

    handle.update.remote(ProgressUpdate(100, 900, 8, "step 1/9"))
    _show(handle, "train", on_steps_left, finished)
    assert set(steps_left) == {8}
