import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.runtime.progress import Progress
from pipelines.runtime.progress_file import ProgressFile
from pipelines.storage.store import Store
from pipelines.train.tracking import progress_actor
from pipelines.train.tracking.progress_actor import ProgressActor, ProgressUpdate, _show, warn_through


@pytest.fixture
def live(tmp_path: Path) -> ProgressFile:
    return ProgressFile(Store(str(tmp_path)), "train", "tokens")


@pytest.fixture
def progress(live: ProgressFile) -> Progress:
    return Progress("train", None, "tokens", file=live)


@pytest.fixture
def handle(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A ProgressActor in this process, behind the interface of an actor's handle."""
    actor = ProgressActor()
    monkeypatch.setattr("ray.get", lambda value, **_: value)
    monkeypatch.setattr(progress_actor, "_POLL_S", 0.01)
    methods = ("warn", "update", "set_checkpoint", "read")
    return SimpleNamespace(**{name: SimpleNamespace(remote=getattr(actor, name)) for name in methods})


def test_a_warning_is_shown_once_in_the_commands_terminal(handle: Any, progress: Any, live: Any, capsys: Any) -> None:
    warn, finished = warn_through(handle), threading.Event()
    for text in ("mlflow is left out", "this CPU is slow", "mlflow is left out"):
        warn(text)
    assert capsys.readouterr().err == "", "not in the worker"
    finished.set()
    _show(handle, progress, live, lambda steps: None, finished)
    assert capsys.readouterr().err == "train: mlflow is left out\ntrain: this CPU is slow\n"
    warn_through(None)("this CPU is slow")
    assert capsys.readouterr().err == "train: this CPU is slow\n", "without an actor, at once"


def test_updates_set_counts_phase_and_steps_left(handle: Any, progress: Progress, live: ProgressFile) -> None:
    steps_left, phases, details, finished = list[int](), list[str](), list[str](), threading.Event()
    updates = iter([ProgressUpdate(100, 900, 8), ProgressUpdate(200, 900, 7, "step 2/9"), ProgressUpdate(900, 900, 0)])

    def on_steps_left(steps: int) -> None:
        steps_left.append(steps)
        details.append(progress.counted().detail)
        phases.append(live.current_phase()[0])
        if len(steps_left) < 3:
            return
        if update := next(updates, None):
            handle.set_checkpoint.remote(1200)
            handle.update.remote(update)
        elif steps == 0:
            finished.set()

    handle.set_checkpoint.remote(0)
    handle.update.remote(next(updates))
    _show(handle, progress, live, on_steps_left, finished)
    assert steps_left[:3] == [8, 8, 8], "repeated between updates"
    assert sorted(set(phases)) == ["", "exporting the student", "first step"]
    assert progress.counted().done == progress.total == 900
    assert list(dict.fromkeys(details)) == ["", "step 2/9, checkpoint of step 1,200", "checkpoint of step 1,200"]
