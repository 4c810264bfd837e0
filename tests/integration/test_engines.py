"""DeepSpeed engines against plain torch: every ZeRO stage, with and without accumulation.

Each training is saved in the middle. It resumes with 1 and 2 workers, in its own ZeRO stage and in the next.
"""

from pathlib import Path
from typing import Any

import pytest

from pipelines.storage.store import Store
from pipelines.train.data.token_table import Tokens
from tests.support.gloo_processes import run_workers
from tests.support.trained_outputs import make_outputs, run_of, tokens_of

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

BEFORE, STEPS = 2, 4
CLIP, DECAY = 0.5, 0.1
Case = tuple[str, int, str, int]
"""Family, ZeRO stage, precision and tokens of a micro-batch: 60 make several a step, 1000 make one."""
RESUMED: list[Case] = [
    *(("decoder-only", stage, "fp32", 60) for stage in range(4)),
    *(("decoder-only", stage, "bf16", 60) for stage in (0, 2, 3)),
    ("encoder-decoder", 2, "fp32", 60),
    ("encoder-decoder", 3, "bf16", 60),
]
WHOLE: list[Case] = [
    *(("encoder-decoder", stage, "fp32", 60) for stage in (0, 1, 3)),
    ("encoder-decoder", 2, "bf16", 60),
    *((family, 2, "fp32", 1000) for family in ("decoder-only", "encoder-decoder")),
]
"""Cases that are not resumed."""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_outputs(tmp_path_factory)


def _worker(case: Case, outputs: dict[str, Path], rank: int, world: int, stage: int) -> Any:
    from pipelines.students.init import initial_student
    from pipelines.train.engine.worker import Worker

    family, _, precision, micro = case
    output = outputs[family]
    run = run_of(output, zero_stage=stage, precision=precision, tokens_per_micro_batch=micro, workers=world,
                 gradient_clipping=CLIP, weight_decay=DECAY)  # fmt: skip
    return Worker(run, initial_student(run.student, 0)[0], Tokens(Store(f"{output}/tokens"), output), rank, world)


def _found(worker: Any, history: list[Any], **more: Any) -> dict[str, Any]:
    from pipelines.train.engine.export import full_state

    weights = full_state(worker.engine) or {}
    return {"history": history, "weights": {k: v.float() for k, v in weights.items()},
            "bytes": worker.optimizer_bytes_per_rank(), **more}  # fmt: skip


def _begin(rank: int, world: int, outputs: dict[str, Path], saved: Path) -> dict[Case, dict[str, Any]]:
    """Train each case to its end, and save it in the middle."""
    from pipelines.train.engine import checkpoints

    results = {}
    for case in RESUMED + WHOLE:
        worker = _worker(case, outputs, rank, world, case[1])
        validation = worker.validate()
        history = [worker.step(step) for step in range(BEFORE)]
        if case in RESUMED:
            folder = saved / "-".join(map(str, case))
            folder.mkdir(exist_ok=True)
            checkpoints.save(worker.engine, {"step": BEFORE}, folder, rank, world)
        history += [worker.step(step) for step in range(BEFORE, STEPS)]
        results[case] = _found(worker, history, validation=validation, micro_batches=len(worker.plan.step(0)[0]))
    return results


def _resume(rank: int, world: int, outputs: dict[str, Path], saved: Path) -> dict[tuple[Case, int], dict[str, Any]]:
    """Train each case from its checkpoint to its end, in two ZeRO stages."""
    from pipelines.train.engine import checkpoints

    results = {}
    for case in RESUMED:
        for stage in (case[1], (case[1] + 1) % 4):
            worker = _worker(case, outputs, rank, world, stage)
            checkpoints.load(worker.engine, saved / "-".join(map(str, case)), BEFORE)
            results[case, stage] = _found(worker, [worker.step(step) for step in range(BEFORE, STEPS)])
    return results


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def begun(outputs: dict[str, Path], saved: Path) -> dict[Case, dict[str, Any]]:
    """Undisturbed trainings with two workers."""
    found: dict[Case, dict[str, Any]] = run_workers(_begin, 2, outputs, saved)
    return found


@pytest.fixture(scope="module")
def references(outputs: dict[str, Path]) -> dict[str, Any]:
    """Results of plain torch for the same plan by family: losses by step, validation losses, final weights."""
    import torch

    from pipelines.students.init import initial_student
    from pipelines.train.engine.deepspeed_engine import learning_rate
    from pipelines.train.engine.worker import make_plan
    from tests.support.reference_training import part_losses, reference_training

    torch.set_num_threads(1)
    found = {}
    for family, output in outputs.items():
        run, tokens = run_of(output, workers=1, tokens_per_micro_batch=1000), tokens_of(output)
        model, _ = initial_student(run.student, 0)
        initial = {k: v.detach().clone() for k, v in model.state_dict().items()}
        label, rationale = part_losses(model, tokens, tokens.validation)
        plan = make_plan(tokens, run, family, 1)
        rates = [learning_rate(s, plan.steps, run.training.learning_rate, run.training.warmup) for s in range(STEPS)]
        history = reference_training(model, tokens, plan, rates, clip=CLIP, decay=DECAY)
        found[family] = {
            "history": history, "validation": {"label": label.item(), "rationale": rationale.item()}, "initial": initial,
            "weights": {k: v.detach().clone() for k, v in model.state_dict().items()},
        }  # fmt: skip
    return found


def check(found: dict[str, Any], case: Case, stage: int, wanted: dict[str, Any]) -> None:
    """The last steps, gradient norms and weights equal those of plain torch."""
    near = 1e-5 if case[2] == "fp32" else 2e-2  # bf16 keeps 8 bits of each weight
    for mine, theirs in zip(found["history"], wanted["history"][-len(found["history"]) :], strict=True):
        assert mine["label"] == pytest.approx(theirs["label"], rel=near), (case, stage)
        assert mine["rationale"] == pytest.approx(theirs["rationale"], rel=near), (case, stage)
        assert mine["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=near), (case, stage)
    assert found["weights"].keys() == wanted["weights"].keys()
    if case[2] == "fp32":
        for key, weight in wanted["weights"].items():
            # By norm: Adam turns a gradient of pure rounding into a full step.
            off = (found["weights"][key] - weight).norm() / (weight - wanted["initial"][key]).norm()
            assert off < 1e-3, (case, stage, key)


def check_bytes(found: dict[str, Any], case: Case, stage: int, world: int, parameters: int) -> None:
    """Two moments, and with ZeRO weights of its own, in equal shares that are padded to even size."""
    whole = 4 * parameters * (2 if stage == 0 else 3)
    share = whole if stage == 0 else whole / world
    assert len(found["bytes"]) == world
    assert all(share <= held <= share + 1024 for held in found["bytes"]), (case, share, found["bytes"])


def parameters_of(output: Path) -> int:
    from pipelines.students.init import initial_student

    return sum(p.numel() for p in initial_student(run_of(output).student, 0)[0].parameters())


def test_engines_learn_what_plain_torch_learns(begun: Any, references: Any, outputs: dict[str, Path]) -> None:
    for case, found in begun.items():
        wanted = references[case[0]]
        check(found, case, case[1], wanted)
        near = 1e-5 if case[2] == "fp32" else 2e-2
        assert found["validation"] == pytest.approx(wanted["validation"], rel=near), case
        check_bytes(found, case, case[1], 2, parameters_of(outputs[case[0]]))
        assert (found["micro_batches"] > 2) == (case[3] == 60), "accumulation must vary"


@pytest.mark.parametrize("world", [1, 2])
def test_a_resumed_training_learns_what_plain_torch_learns(
    begun: Any, references: Any, outputs: dict[str, Path], saved: Path, world: int
) -> None:
    for (case, stage), found in run_workers(_resume, world, outputs, saved).items():
        check(found, case, stage, references[case[0]])
        check_bytes(found, case, stage, world, parameters_of(outputs[case[0]]))
