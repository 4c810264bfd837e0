"""Failures of the training loop, and the reasons to stop early. The loop itself: tests/integration/test_train.py."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.config import TrainingConfig
from pipelines.errors import StageFailedError
from pipelines.students.details import BestStep
from pipelines.train.engine import loop
from pipelines.train.engine.job import TrainingFailure, TrainingJob
from pipelines.train.engine.loop import train_loop
from pipelines.train.engine.resume import CheckpointSaver, TrainingState
from pipelines.train.engine.steps import check_spike, is_patience_over, validate_if_due
from pipelines.train.engine.worker import WorkerOutOfMemoryError
from pipelines.train.tracking.progress_actor import warn_through
from tests import integration
from tests.support.tiny_runs import make_run

torch = pytest.importorskip("torch")


def worker(losses: list[float], **training: Any) -> Any:
    """A worker whose validation losses are these, one after the other."""
    left = iter(losses)
    return SimpleNamespace(
        run=SimpleNamespace(training=TrainingConfig(**training)),
        weights={"label": 1.0},
        plan=SimpleNamespace(steps=100),
        validate=lambda: {"label": next(left)},
        examples_of=lambda step: f"Its examples: a, b of step {step}",
    )


def test_patience_counts_from_the_best_measurement() -> None:
    state, one = TrainingState(), worker([3.0, 2.0, 2.5, 2.0, 1.9], validate_every_steps=10, patience=2)
    best, over = [], []
    for state.step in range(1, 51):
        best += [state.step] if validate_if_due(one, state) else []
        over += [state.step] if is_patience_over(state, 2) else []
    assert (best, state.best) == ([10, 20, 50], BestStep(step=50, objective=1.9, terms={"label": 1.9}))
    assert [row["objective"] for row in state.validation] == [3.0, 2.0, 2.5, 2.0, 1.9]
    assert over == list(range(40, 50)), "an equal measurement is no better one"


def test_one_criterion_chooses_for_all_methods() -> None:
    """By its own objective step-by-step would take the first measurement."""
    terms = ("label", "rationale", "accuracy")
    measured = iter([dict(zip(terms, values, strict=True)) for values in ((2.0, 1.0, 0.5), (1.0, 9.0, 0.4))] * 2)
    for choose_by, step, value in (("label-loss", 20, 1.0), ("accuracy", 10, 0.5)):
        state, one = TrainingState(), worker([], validate_every_steps=10, choose_by=choose_by)
        one.weights, one.validate = {"label": 0.5, "rationale": 0.5}, lambda: next(measured)
        for state.step in (10, 20):
            validate_if_due(one, state)
        assert (state.best.step, state.best.objective) == (step, value)


def test_the_last_step_is_measured_and_nan_is_never_best() -> None:
    state, one = TrainingState(), worker([float("nan"), 2.0, 1.0], validate_every_steps=33)
    for state.step in (33, 66, 90, 100):
        validate_if_due(one, state)
    assert [row["step"] for row in state.validation] == [33, 66, 100]
    assert state.best == BestStep(step=100, objective=1.0, terms={"label": 1.0})
    assert not validate_if_due(worker([], validate_every_steps=None), state)


def test_a_spike_stops_with_the_examples_of_its_step() -> None:
    state = TrainingState(step=20, history=[{"loss": 1.0}] * 20)
    check_spike(worker([], max_loss_spike=3.0), state, {"loss": 2.9})
    check_spike(worker([]), state, {"loss": 1e9})
    with pytest.raises(StageFailedError, match=r"step 20 is 3\.1, more than 3 times .* Its examples: a, b of step 20"):
        check_spike(worker([], max_loss_spike=3.0), state, {"loss": 3.1})


def test_checkpoints_come_by_steps_and_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes a minute. Saving takes as long as `saving_min`: more than a twentieth of the interval puts the next one off."""
    for settings, saving_min, saved in (
        ({"checkpoint_every_steps": 7, "checkpoint_every_minutes": None}, 0, [7, 14]),
        ({}, 0, [5, 10, 15]),
        ({"checkpoint_every_minutes": 3}, 0.25, [3, 8, 13]),
        ({"checkpoint_every_steps": 4, "checkpoint_every_minutes": 3}, 0, [3, 4, 7, 8, 11, 12, 15, 16]),
    ):
        clock, one = [0.0], worker([], **settings)
        one.any, one.plan.steps = bool, 17

        def save(saver: CheckpointSaver, state: TrainingState, clock: Any = clock, took: float = saving_min) -> None:
            clock[0] += 60 * took

        monkeypatch.setattr("pipelines.train.engine.resume.time", SimpleNamespace(monotonic=lambda c=clock: c[0]))
        monkeypatch.setattr(CheckpointSaver, "_save", save)
        saver, state, found = CheckpointSaver(one), TrainingState(), []
        for state.step in range(1, 18):
            clock[0] += 60
            found += [state.step] if saver.save_if_due(state) else []
        assert found == saved, settings


def test_state_of_version_0_1_is_read_and_written() -> None:
    (file,) = Path(integration.__path__[0]).glob("artifacts_0_1/training_begun/**/state.json")
    saved = json.loads(file.read_text())["state"]
    saved["best"] = {"step": 20, "objective": 2.0, "terms": {"label": 2.0}}
    assert json.dumps(TrainingState.model_validate(saved).model_dump()) == json.dumps(saved)


def test_out_of_memory_ends_the_next_attempt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On real workers: tests/integration/test_train_options.py."""
    reasons: list[str] = []
    progress: Any = SimpleNamespace(
        fatal_error=SimpleNamespace(remote=lambda: reasons[0] if reasons else None),
        report_fatal_error=SimpleNamespace(remote=reasons.append),
    )
    job = TrainingJob(make_run(tmp_path, "none"), "work", "tokens", "student", "name", "tensorboard", progress=progress)
    sizes = dict.fromkeys(("get_local_world_size", "get_world_rank", "get_world_size"), lambda: 1)
    monkeypatch.setattr("ray.get", lambda value: value)
    monkeypatch.setattr("ray.train.get_context", lambda: SimpleNamespace(**sizes))
    monkeypatch.setattr("pipelines.train.engine.deepspeed_engine.prepare_deepspeed", lambda gpu: None)
    monkeypatch.setattr(loop, "_share_cores", lambda workers: None)

    def exhausted(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(loop, "_train", exhausted)
    with pytest.raises(WorkerOutOfMemoryError) as caught:
        train_loop({"job": job})
    assert reasons == [str(caught.value)]
    for setting in ("tokens_per_micro_batch", "zero_stage (now 2)", "activation_checkpointing: true"):
        assert setting in reasons[0]
    monkeypatch.delattr(loop, "_train")
    assert train_loop({"job": job}) == TrainingFailure(reasons[0]), "another attempt would fail in the same way"


def test_bf16_on_a_cpu_without_it_is_a_warning(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(loop, "node_name", lambda: "10.0.0.1 (abcdef12)")
    for precision, gpus, able in (("bf16", 0, False), ("bf16", 0, True), ("bf16", 1, False), ("fp32", 0, False)):
        monkeypatch.setattr(loop, "computes_bf16", lambda able=able: able)
        training = TrainingConfig.model_validate({"precision": precision, "gpus_per_worker": gpus, "workers": 1})
        loop._warn_of_slow_bf16(training, warn_through(None))
        warns = (precision, gpus, able) == ("bf16", 0, False)
        assert ("CPU of 10.0.0.1 (abcdef12)" in capsys.readouterr().err) == warns


@pytest.mark.parametrize(("others", "chosen"), [(1, "bf16"), (0, "fp32")])
def test_auto_precision_suits_every_worker(others: int, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "has_bf16_instructions", lambda: True)
    monkeypatch.setattr("torch.distributed.all_reduce", lambda able, operation: able.mul_(others))
    assert loop.with_precision(TrainingConfig(precision="auto")).precision == chosen
    assert loop.with_precision(TrainingConfig(precision="fp32")).precision == "fp32"
