import pytest

from pipelines.train.tracking import prometheus
from pipelines.train.tracking.prometheus import TrainMetrics
from tests.support.endpoints import wait_until
from tests.support.metrics import Recorded, recorded

__all__ = ["recorded"]


@pytest.mark.parametrize("gpus", [4, 0])
def test_steps_export_losses_tokens_and_gpu_seconds(recorded: Recorded, gpus: int) -> None:
    metrics = TrainMetrics("svamp", gpus)
    speed = {"gradient_norm": 9.0, "tokens_per_s": 500.0, "step_s": 2.0}
    for step in (1, 2):
        metrics.log(step, {"loss": 3.0 / step, "label": 2.0, **speed})
    metrics.log(2, {"validation/objective": 1.5, "validation/label": 1.25})
    metrics.close(finished=False)
    gpu_seconds = {("raystill_gpu_seconds", "svamp", "train"): 16.0} if gpus else {}
    assert recorded == {
        ("raystill_train_loss", "svamp", "loss"): 1.5,
        ("raystill_train_loss", "svamp", "label"): 2.0,
        ("raystill_train_loss", "svamp", "validation/objective"): 1.5,
        ("raystill_train_loss", "svamp", "validation/label"): 1.25,
        ("raystill_train_tokens", "svamp"): 2000.0,
        **gpu_seconds,
    }


def test_gauges_are_repeated_while_a_step_hangs(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus, "_REPEAT_S", 0.01)
    metrics = TrainMetrics("svamp", 0)
    metrics.log(3, {"loss": 1.0, "tokens_per_s": 1.0, "step_s": 1.0})
    recorded.clear()
    wait_until(lambda: len(recorded) == 1, 10.0, every_s=0.01, of=lambda: recorded)
    metrics.close(finished=True)
    assert recorded == {("raystill_train_loss", "svamp", "loss"): 1.0}
