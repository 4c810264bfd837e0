"""Trackers: what they are told can be read back with their own tools, and one that fails ends no training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.storage.store import Store
from pipelines.train.tracking.progress_actor import warner
from pipelines.train.tracking.trackers import Trackers
from tests.support.tiny_runs import make_run

pytest.importorskip("torch")


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, pytest.approx(event.value)) for event in events.Scalars(name)]


def run_with(tmp_path: Path, *trackers: str) -> Any:
    return make_run(tmp_path, "org/student", training={"trackers": list(trackers)})


def opened(run: Any, folder: Path, step: int = 0) -> Trackers:
    """The trackers of a training whose last step that counts is this."""
    store, work = Store(str(folder / "tensorboard")), Store(str(folder / "work"))
    return Trackers(run, "abc", store, work, step, workers=1, warn=warner(None))


def test_tensorboard_reads_every_step_once_after_a_restart_too(tmp_path: Path) -> None:
    run = run_with(tmp_path)
    never_saved = opened(run, tmp_path)
    never_saved.log(1, {"loss": 9.0})
    never_saved.log(9, {"loss": 9.0})
    never_saved.close(finished=True)
    first = opened(run, tmp_path)
    for step in range(1, 6):
        first.log(step, {"step": step, "loss": 1.0 / step})
    first.log(5, {"step": 5, "objective": 0.5}, "validation/")
    first.close(finished=True)
    # Lost after its step 5; the checkpoint was of step 3.
    again = opened(run, tmp_path, 3)
    for step in range(4, 8):
        again.log(step, {"loss": 1.0 / step})
    again.close(finished=True)
    assert scalars(tmp_path / "tensorboard", "loss") == [(step, 1.0 / step) for step in range(1, 8)]
    assert scalars(tmp_path / "tensorboard", "validation/objective") == []


def test_mlflow_goes_on_with_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    run = run_with(tmp_path, "mlflow")
    for first in (1, 3):
        trackers = opened(run, tmp_path, first - 1)
        for step in (first, first + 1):
            trackers.log(step, {"loss": float(step)})
        trackers.close(finished=first == 3)
    assert "left out" not in capfd.readouterr().err
    (identity,) = json.loads((tmp_path / "work/trackers.json").read_text()).values()
    client = mlflow.MlflowClient()
    history = client.get_metric_history(identity, "loss")
    assert sorted((metric.step, metric.value) for metric in history) == [(step, float(step)) for step in range(1, 5)]
    found = client.get_run(identity)
    assert found.data.params["student.method"] == "step-by-step"
    assert (found.info.run_name, found.info.status) == ("tiny-abc", "FINISHED")


def test_wandb_writes_where_it_is_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    trackers = opened(run_with(tmp_path, "wandb"), tmp_path)
    trackers.log(1, {"loss": 2.0})
    trackers.sync()
    trackers.close(finished=True)
    assert "left out" not in capfd.readouterr().err
    identity = json.loads((tmp_path / "work/trackers.json").read_text())["wandb"]
    assert any(identity in file.name for file in tmp_path.rglob("*.wandb"))


def test_a_tracker_that_fails_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trackers = opened(run_with(tmp_path), tmp_path)

    class Down:
        def log(self, step: int, values: Any) -> None:
            raise ConnectionError("nobody there")

    trackers._trackers["mlflow"] = Down()  # type: ignore[assignment]
    for step in (1, 2):
        trackers.log(step, {"loss": 1.0})
    trackers.close(finished=True)
    assert scalars(tmp_path / "tensorboard", "loss") == [(1, 1.0), (2, 1.0)]
    assert capsys.readouterr().err.count("mlflow is left out from here on (ConnectionError: nobody there)") == 1
