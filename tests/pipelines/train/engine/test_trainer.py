"""How a stopped training is reported. Ray Train itself: tests/integration/test_train.py."""

from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.errors import StageFailedError, UserError
from pipelines.storage.store import Store
from pipelines.train.engine import trainer
from pipelines.train.engine.job import TrainingFailure

WORK = Store("s3://bucket/run/training/ab?region=eu-west-1")
RESUMES = "The same command resumes from the last checkpoint in s3://bucket/run/training/ab?region=eu-west-1."


def stopped(fit: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(trainer, "_trainer", lambda job: SimpleNamespace(fit=fit))
    with pytest.raises(StageFailedError) as caught:
        trainer.run_training(SimpleNamespace(work=WORK))  # type: ignore[arg-type]
    return str(caught.value)


def test_a_failure_says_how_to_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    result = SimpleNamespace(return_value=TrainingFailure("step 3 is not finite"))
    assert stopped(lambda: result, monkeypatch) == f"training stopped: step 3 is not finite. {RESUMES}"


@pytest.mark.parametrize(
    ("errors", "reason"),
    [
        ([RuntimeError("gloo: closed"), UserError("student.model m", "it is gone", "Fix it.")], "student.model m: it is gone."),
        ([RuntimeError("first line\nlast line.")], "last line."),
        ([], "Training failed due to worker errors:"),
    ],
)  # fmt: skip
def test_a_lost_worker_is_reported_by_its_own_error(
    errors: list[Exception], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.train import WorkerGroupError

    def fit() -> None:
        raise WorkerGroupError("", {rank: SimpleNamespace(cause=error) for rank, error in enumerate(errors)})

    assert stopped(fit, monkeypatch).startswith(f"training stopped: {reason}")
