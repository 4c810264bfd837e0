"""How a stopped training is reported. Ray Train itself: tests/integration/test_train.py."""

from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayError

from pipelines.errors import StageFailedError, UserError
from pipelines.storage.store import Store
from pipelines.train.engine import trainer
from pipelines.train.engine.job import TrainingFailure

WORK = Store("s3://bucket/run/training/ab?region=eu-west-1")
IN_FOLDER = "resumes from the last checkpoint in s3://bucket/run/training/ab?region=eu-west-1, if there is one."


def fails(error: BaseException) -> Any:
    raise error


def stopped(fit: Any, monkeypatch: pytest.MonkeyPatch, progress: Any = None) -> str:
    monkeypatch.setattr(trainer, "_trainer", lambda job: SimpleNamespace(fit=fit))
    with pytest.raises((StageFailedError, KeyboardInterrupt)) as caught:
        trainer.run_training(SimpleNamespace(work=WORK, progress=progress))  # type: ignore[arg-type]
    return str(caught.value)


@pytest.mark.parametrize(
    ("checkpoint", "kept"),
    [
        (1200, "The last checkpoint is of step 1,200; the same command resumes there."),
        (0, "There is no checkpoint yet; the same command starts over from step 0."),
        (None, f"The same command {IN_FOLDER}"),
        (RayError("the cluster is gone"), f"The same command {IN_FOLDER}"),
    ],
)
def test_what_is_kept_is_said(checkpoint: Any, kept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(value: Any, timeout: float) -> Any:
        return fails(value) if isinstance(value, Exception) else value

    monkeypatch.setattr("ray.get", answer)
    progress = SimpleNamespace(checkpoint=SimpleNamespace(remote=lambda: checkpoint))
    result = SimpleNamespace(return_value=TrainingFailure("step 3 is not finite"))
    assert stopped(lambda: result, monkeypatch, progress) == f"training stopped: step 3 is not finite. {kept}"
    assert stopped(lambda: fails(KeyboardInterrupt()), monkeypatch, progress) == kept


@pytest.mark.parametrize(
    ("errors", "reason"),
    [
        ([RuntimeError("gloo: closed"), UserError("student.model m", "it is gone", "Fix it.")], "student.model m: it is gone."),
        ([RuntimeError("first line\nlast line.")], "last line."),
        ([], "Training failed due to worker errors:"),
    ],
)  # fmt: skip
def test_a_lost_worker_is_reported_by_its_own_error(errors: Any, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.train import WorkerGroupError

    error = WorkerGroupError("", {rank: SimpleNamespace(cause=error) for rank, error in enumerate(errors)})
    assert stopped(lambda: fails(error), monkeypatch).startswith(f"training stopped: {reason}")
