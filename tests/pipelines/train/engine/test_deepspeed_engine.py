"""DeepSpeed settings of a run, and the learning rate. Engines: tests/integration/test_train.py and test_engines.py."""

import itertools
import json
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.config import TrainingConfig
from pipelines.errors import StageFailedError
from pipelines.train.engine.deepspeed_engine import clip_gradients, compile_layers, deepspeed_config, learning_rate


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("gpus", [0, 1])
def test_settings_follow_from_the_run(stage: Any, precision: Any, gpus: Any) -> None:
    given: Any = {"gradient_clipping": 0.7, "weight_decay": 0.2}
    training = TrainingConfig(zero_stage=stage, precision=precision, gpus_per_worker=gpus, **given)
    settings, whole_bf16 = deepspeed_config(training), precision == "bf16" and gpus == 1
    assert settings["zero_optimization"]["stage"] == stage
    assert settings["gradient_clipping"] == (0.7 if stage or whole_bf16 else 0.0), "the worker clips and has the norm"
    assert (settings["bf16"], "fp16" in settings) == ({"enabled": whole_bf16}, False)
    accumulated = settings.get("data_types", {}).get("grad_accum_dtype")
    assert accumulated == ("fp32" if whole_bf16 and stage >= 2 else None)
    adam = settings["optimizer"]["params"]
    assert (adam["weight_decay"], adam["torch_adam"], json.loads(json.dumps(settings))) == (0.2, True, settings)


@pytest.mark.parametrize("largest", [0.5, 50.0])
def test_gradients_are_clipped_by_their_whole_norm(largest: float) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module, other = torch.nn.Linear(3, 5), torch.nn.Linear(3, 5)
    other.load_state_dict(module.state_dict())
    for one in (module, other):
        one(torch.ones(4, 3)).sum().backward()
    expected = torch.nn.utils.clip_grad_norm_(other.parameters(), largest)
    assert clip_gradients(SimpleNamespace(module=module), largest) == pytest.approx(float(expected))
    for mine, theirs in zip(module.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


@pytest.mark.parametrize(
    ("offload", "moved"), [("none", []), ("optimizer", ["optimizer"]), ("parameters", ["optimizer", "param"])]
)
def test_offload_needs_no_compiler(offload: Any, moved: list[str]) -> None:
    settings = deepspeed_config(TrainingConfig(offload=offload, zero_stage=3))
    found = {key: value for key, value in settings["zero_optimization"].items() if key.startswith("offload")}
    assert found == {f"offload_{part}": {"device": "cpu", "pin_memory": False} for part in moved}
    assert settings["zero_force_ds_cpu_optimizer"] is False


def test_layers_of_an_unknown_architecture_are_not_compiled() -> None:
    torch = pytest.importorskip("torch")

    class Unknown(torch.nn.Linear):  # type: ignore[misc]
        _no_split_modules = None

    with pytest.raises(StageFailedError, match=r"training\.compile true: .* the layers of a Unknown\. Set it to false"):
        compile_layers(Unknown(2, 2))


def test_a_schedule_rises_and_falls() -> None:
    names = ("linear", "cosine", "constant")
    linear, cosine, constant = ([learning_rate(step, 100, 2.0, 0.1, one) for step in range(100)] for one in names)
    assert max(linear) == linear[9] == 2.0
    assert all(a < b for a, b in itertools.pairwise(linear[:10]))
    for falling in (linear, cosine):
        assert all(a > b for a, b in itertools.pairwise(falling[9:]))
    assert linear[:10] == cosine[:10] == constant[:10]
    assert all(c > m for c, m in zip(cosine[12:50], linear[12:50], strict=True)), "cosine stays high for longer"
    assert 0 < cosine[-1] < linear[-1], "no step is without effect"
    assert set(constant[9:]) == {2.0}


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.0), (1, 1.0), (7, 0.0), (7, 1.0), (3, 0.05)])
def test_a_short_training_reaches_the_peak_rate(steps: int, warmup: float, schedule: str) -> None:
    rates = [learning_rate(step, steps, 1.0, warmup, schedule) for step in range(steps)]
    assert max(rates) == 1.0
    assert min(rates) > 0
