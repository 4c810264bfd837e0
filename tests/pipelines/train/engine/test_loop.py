"""When a training stops early. The loop itself runs in tests/integration/test_train.py."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipelines.config import TrainingConfig
from pipelines.errors import StageFailedError
from pipelines.train.engine import loop
from pipelines.train.engine.loop import _check_spike, _patience_is_over, _validate, train_loop
from pipelines.train.engine.resume import State
from pipelines.train.engine.worker import WorkerOutOfMemoryError
from pipelines.train.tracking.progress_actor import warner
from tests.support.tiny_runs import make_run


def worker(losses: list[float], **training: Any) -> Any:
    """A worker whose validation loss is the next of these."""
    left = iter(losses)
    return SimpleNamespace(
        run=SimpleNamespace(training=TrainingConfig(**training)),
        weights={"label": 1.0},
        plan=SimpleNamespace(steps=100),
        tokens=SimpleNamespace(validation=[0]),
        measure=lambda _: {"label": next(left)},
        examples_of=lambda step: f"Its examples: a, b of step {step}",
    )


def test_the_best_is_kept_and_patience_counts_from_it() -> None:
    state, one = State(), worker([3.0, 2.0, 2.5, 2.0, 1.9], validate_every_steps=10, patience=2)
    found, over = [], []
    for step in range(1, 51):
        state.step = step
        found.append(_validate(one, state))
        over.append(_patience_is_over(state, 2))
    assert [i + 1 for i, best in enumerate(found) if best] == [10, 20, 50]
    assert state.best == {"step": 50, "objective": 1.9, "terms": {"label": 1.9}}
    assert [row["objective"] for row in state.validation] == [3.0, 2.0, 2.5, 2.0, 1.9]
    assert [i + 1 for i, ended in enumerate(over) if ended] == list(range(40, 50)), "an equal one is no better one"


def test_no_number_is_no_best() -> None:
    state, one = State(), worker([float("nan"), 2.0], validate_every_steps=10)
    for state.step in (10, 20):
        _validate(one, state)
    assert state.best is not None
    assert state.best["step"] == 20


def test_the_last_step_is_measured_whatever_its_number() -> None:
    state = State(step=100)
    assert _validate(worker([1.0], validate_every_steps=33), state)
    assert not _validate(worker([], validate_every_steps=None), State(step=100))


def test_a_spike_stops_with_the_examples_of_its_step() -> None:
    state = State(step=20, history=[{"loss": 1.0}] * 20)
    _check_spike(worker([], max_loss_spike=3.0), state, {"loss": 2.9})
    _check_spike(worker([]), state, {"loss": 1e9})
    with pytest.raises(StageFailedError, match=r"step 20 is 3\.1, more than 3 times .* Its examples: a, b of step 20"):
        _check_spike(worker([], max_loss_spike=3.0), state, {"loss": 3.1})


def test_a_full_memory_is_told_to_the_next_attempt_which_ends_with_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On real workers: tests/integration/test_train_options.py."""

    told: list[str] = []
    board = SimpleNamespace(
        hopeless=SimpleNamespace(remote=lambda: told[0] if told else ""), give_up=SimpleNamespace(remote=told.append)
    )
    run = make_run(tmp_path, "none").model_dump(mode="json")
    monkeypatch.setattr("ray.get", lambda found: found)
    sizes = dict.fromkeys(("get_local_world_size", "get_world_rank", "get_world_size"), lambda: 1)
    monkeypatch.setattr("ray.train.get_context", lambda: SimpleNamespace(**sizes))
    monkeypatch.setattr("pipelines.train.engine.deepspeed_engine.prepare_deepspeed", lambda **_: None)
    monkeypatch.setattr(loop, "_use_cores", lambda workers: None)
    monkeypatch.setattr(loop.TrainingJob, "of", lambda config: SimpleNamespace(run=run, board=board))

    def full(*_: Any) -> dict[str, Any]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(loop, "_train", full)
    with pytest.raises(WorkerOutOfMemoryError) as caught:
        train_loop({})
    assert told == [str(caught.value)]
    for setting in ("tokens_per_micro_batch", "zero_stage (now 2)", "activation_checkpointing: true"):
        assert setting in told[0]
    monkeypatch.delattr(loop, "_train")
    assert train_loop({}) == {"failed": told[0]}, "another attempt would fail in the same way"


@pytest.mark.parametrize(
    ("precision", "gpus", "knows_bf16", "warned"),
    [("bf16", 0, False, True), ("bf16", 0, True, False), ("bf16", 1, False, False), ("fp32", 0, False, False)],
)
def test_bf16_on_a_cpu_that_does_not_know_it_is_warned_of(
    precision: str, gpus: int, knows_bf16: bool, warned: bool,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(loop, "node_name", lambda: "10.0.0.1 (abcdef12)")
    monkeypatch.setattr(loop, "computes_bf16", lambda: knows_bf16)
    loop._warn_of_slow_bf16(TrainingConfig(precision=precision, gpus_per_worker=gpus, workers=1), warner(None))  # type: ignore[arg-type]
    assert ("CPU of 10.0.0.1 (abcdef12)" in capsys.readouterr().err) == warned
