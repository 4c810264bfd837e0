"""The DeepSpeed settings of a run, and the learning rate. Engines are in tests/integration/test_train.py."""

from __future__ import annotations

import doctest
import itertools
import json

import pytest

from pipelines.config import TrainingConfig
from pipelines.train.engine import deepspeed_engine
from pipelines.train.engine.deepspeed_engine import deepspeed_config, learning_rate


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_settings_say_what_the_run_says(stage, precision):
    settings = deepspeed_config(
        TrainingConfig(zero_stage=stage, precision=precision, gradient_clipping=0.7, weight_decay=0.2)
    )
    assert settings["zero_optimization"]["stage"] == stage
    assert settings["bf16"] == {"enabled": precision == "bf16"}
    assert "fp16" not in settings
    assert settings["gradient_clipping"] == 0.7
    assert settings["optimizer"]["params"]["weight_decay"] == 0.2
    assert settings["optimizer"]["params"]["torch_adam"] is True
    assert json.loads(json.dumps(settings)) == settings


def test_offloading_takes_no_compiler():
    def of(**training):
        return deepspeed_config(TrainingConfig(**training))

    assert "offload_optimizer" not in of()["zero_optimization"]
    assert of(offload="optimizer")["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    whole = of(offload="parameters", zero_stage=3)
    assert whole["zero_optimization"]["offload_param"]["device"] == "cpu"
    assert whole["zero_force_ds_cpu_optimizer"] is False


def test_the_rate_rises_and_falls_in_straight_lines():
    rates = [learning_rate(step, 100, 2.0, 0.1) for step in range(100)]
    assert max(rates) == rates[9] == 2.0
    assert all(a < b for a, b in itertools.pairwise(rates[:10]))
    assert all(a > b for a, b in itertools.pairwise(rates[9:]))
    assert min(rates) > 0, "no step is without effect"


def test_the_rate_falls_along_half_a_wave_or_stays():
    cosine = [learning_rate(step, 100, 2.0, 0.1, "cosine") for step in range(100)]
    linear = [learning_rate(step, 100, 2.0, 0.1) for step in range(100)]
    assert cosine[:10] == linear[:10]
    assert all(a > b for a, b in itertools.pairwise(cosine[9:]))
    assert all(c > m for c, m in zip(cosine[12:50], linear[12:50], strict=True)), "it stays high for longer"
    assert 0 < cosine[-1] < linear[-1]
    assert {learning_rate(step, 100, 2.0, 0.1, "constant") for step in range(9, 100)} == {2.0}


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.0), (1, 1.0), (7, 0.0), (7, 1.0), (3, 0.05)])
def test_the_rate_of_short_trainings(steps, warmup, schedule):
    rates = [learning_rate(step, steps, 1.0, warmup, schedule) for step in range(steps)]
    assert max(rates) == 1.0
    assert min(rates) > 0


def test_the_examples_in_the_docstrings():
    assert doctest.testmod(deepspeed_engine).failed == 0
