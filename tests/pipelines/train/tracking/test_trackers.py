import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from pipelines.train.engine.job import TrainingJob
from pipelines.train.tracking.progress_actor import warn_through
from pipelines.train.tracking.trackers import Trackers
from tests.support.tiny_runs import make_run

pytest.importorskip("torch")


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, pytest.approx(event.value)) for event in events.Scalars(name)]


def trackers_of(folder: Path, *services: str, step: int = 0) -> Trackers:
    """The trackers of a training whose last step that counts is `step`."""
    run = make_run(folder, "org/student", training={"trackers": list(services)})
    places = [str(folder / name) for name in ("work", "tokens", "student")]
    job = TrainingJob(run, *places, "abc", str(folder / "tensorboard"))
    return Trackers(job, step, workers=1, warn=warn_through(None))


def test_tensorboard_has_every_step_once_after_a_restart(tmp_path: Path) -> None:
    never_saved = trackers_of(tmp_path)
    for step in (1, 9):
        never_saved.log(step, {"loss": 9.0})
    never_saved.close(finished=True)
    first = trackers_of(tmp_path)
    for step in range(1, 6):
        first.log(step, {"step": step, "loss": 1.0 / step})
    first.log(5, {"step": 5, "objective": 0.5}, "validation/")
    first.close(finished=True)
    # Lost after its step 5; the checkpoint was of step 3.
    restarted = trackers_of(tmp_path, step=3)
    for step in range(4, 8):
        restarted.log(step, {"loss": 1.0 / step})
    restarted.close(finished=True)
    assert scalars(tmp_path, "loss") == [(step, 1.0 / step) for step in range(1, 8)]
    assert scalars(tmp_path, "validation/objective") == []


def test_mlflow_continues_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    for first in (1, 3):
        trackers = trackers_of(tmp_path, "mlflow", step=first - 1)
        for step in (first, first + 1):
            trackers.log(step, {"loss": float(step)})
        trackers.close(finished=first == 3)
    assert "left out" not in capfd.readouterr().err
    (run_id,) = json.loads((tmp_path / "work/trackers.json").read_text()).values()
    client = mlflow.MlflowClient()
    history = client.get_metric_history(run_id, "loss")
    assert sorted((metric.step, metric.value) for metric in history) == [(step, float(step)) for step in range(1, 5)]
    found = client.get_run(run_id)
    assert found.data.params["student.method"] == "step-by-step"
    assert (found.info.run_name, found.info.status) == ("tiny-abc", "FINISHED")


def test_wandb_writes_a_folder_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    pytest.importorskip("wandb")
    for name, value in (("WANDB_MODE", "offline"), ("WANDB_DIR", str(tmp_path)), ("WANDB_SILENT", "true")):
        monkeypatch.setenv(name, value)
    trackers = trackers_of(tmp_path, "wandb")
    trackers.log(1, {"loss": 2.0})
    trackers.sync()
    trackers.close(finished=True)
    assert "left out" not in capfd.readouterr().err
    run_id = json.loads((tmp_path / "work/trackers.json").read_text())["wandb"]
    assert any(run_id in file.name for file in tmp_path.rglob("*.wandb"))


def test_a_failing_tracker_is_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trackers, down = trackers_of(tmp_path), Mock()
    down.log.side_effect = ConnectionError("connection refused")
    trackers._trackers["mlflow"] = down
    for step in (1, 2):
        trackers.log(step, {"loss": 1.0})
    trackers.close(finished=True)
    assert scalars(tmp_path, "loss") == [(1, 1.0), (2, 1.0)]
    message = "mlflow is left out from here on (ConnectionError: connection refused)"
    assert capsys.readouterr().err.count(message) == 1
