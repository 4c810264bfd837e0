"""What a training tells Prometheus."""

from __future__ import annotations

import pytest

from pipelines.train.tracking import prometheus
from pipelines.train.tracking.prometheus import TrainMetrics
from tests.support.endpoints import wait_until
from tests.support.metrics import Told, told

__all__ = ["told"]


def test_steps_tell_loss_tokens_and_gpu_seconds(told: Told) -> None:
    live = TrainMetrics("svamp", 4)
    for step in (1, 2):
        live.log(step, {"loss": 3.0 / step, "label": 2.0, "gradient_norm": 9.0, "tokens_per_s": 500.0, "step_s": 2.0})
    live.log(2, {"validation/objective": 1.5, "validation/label": 1.25})
    live.sync()
    assert told == {
        ("raystill_train_loss", "svamp", "loss"): 1.5,
        ("raystill_train_loss", "svamp", "label"): 2.0,
        ("raystill_train_loss", "svamp", "validation/objective"): 1.5,
        ("raystill_train_loss", "svamp", "validation/label"): 1.25,
        ("raystill_train_tokens", "svamp"): 2000.0,
        ("raystill_gpu_seconds", "svamp", "train"): 16.0,
    }
    live.close(finished=False)


def test_gauges_are_told_again_while_a_step_hangs(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus, "_EVERY_S", 0.01)
    live = TrainMetrics("svamp", 0)
    live.log(3, {"loss": 1.0, "tokens_per_s": 1.0, "step_s": 1.0})
    told.clear()
    wait_until(lambda: len(told) == 1, 10.0, every_s=0.01, of=lambda: told)
    live.close(finished=True)
    assert told == {("raystill_train_loss", "svamp", "loss"): 1.0}


def test_without_gpus_their_seconds_are_not_told(told: Told) -> None:
    live = TrainMetrics("svamp", 0)
    live.log(3, {"loss": 1.0, "tokens_per_s": 1.0, "step_s": 1.0})
    live.close(finished=False)
    assert not any(name == "raystill_gpu_seconds" for name, *_ in told)
