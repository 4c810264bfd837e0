"""DeepSpeed engines against plain torch: 1 and 2 workers, every ZeRO stage, with and without accumulation, across a restart."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pipelines.storage.store import Store
from pipelines.train.data.token_table import Tokens
from tests.support.gloo_processes import run_processes
from tests.support.trained_outputs import make_outputs, run_of, tokens_of

pytestmark = [pytest.mark.integration, pytest.mark.deepspeed, pytest.mark.timeout(300)]

STEPS = 3
CLIP, DECAY = 0.5, 0.1


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_outputs(tmp_path_factory)


def _engine_cases(outputs: dict[str, Path], workers: int) -> list[tuple[str, str, dict[str, Any]]]:
    """(name, output folder, training settings). 60: several micro-batches a step, 1000: one."""
    cases = []
    for family, output in outputs.items():
        kinds = [(stage, "fp32", 60) for stage in ((0, 1, 2, 3) if workers > 1 else (2,))]
        kinds += [(2, "fp32", 1000), (2, "bf16", 60)]
        kinds += [(0, "bf16", 60), (3, "bf16", 60)] if workers > 1 and family == "decoder-only" else []
        for stage, precision, micro in kinds:
            training = {
                "zero_stage": stage, "precision": precision, "tokens_per_micro_batch": micro, "workers": workers,
                "gradient_clipping": CLIP, "weight_decay": DECAY,
            }  # fmt: skip
            cases.append((f"{family}/{stage}/{precision}/{micro}", str(output), training))
    return cases


def _train_without_ray(rank: int, world: int, folder: str, cases: list[tuple[str, str, dict[str, Any]]]) -> None:
    """One of `world` gloo processes on a machine without compilers: train each case for some steps and save the results.

    Each case is saved between its steps and resumes in a second engine.
    """
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank), PATH="")
    import torch
    import torch.distributed as dist

    from pipelines.students.init import initial_student
    from pipelines.train.engine import checkpoints
    from pipelines.train.engine.deepspeed_engine import prepare_deepspeed
    from pipelines.train.engine.export import full_state
    from pipelines.train.engine.worker import Worker

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous{world}", rank=rank, world_size=world)
    prepare_deepspeed(gpu=False)
    results = {}
    for name, output, training in cases:
        run = run_of(Path(output), **training)
        tokens = Tokens(Store(f"{output}/tokens"), Path(output))
        workers = [Worker(run, initial_student(run.student, 0)[0], tokens, rank, world) for _ in range(2)]
        before = workers[0].validate()
        history = [workers[0].step(step) for step in range(STEPS - 1)]
        saved = Path(folder, "checkpoints", name)
        saved.mkdir(parents=True, exist_ok=True)
        checkpoints.save(workers[0].engine, {"step": STEPS - 1}, saved, rank, world)
        dist.barrier()
        checkpoints.load(workers[1].engine, saved, STEPS - 1)
        history.append(workers[1].step(STEPS - 1))
        weights = full_state(workers[1].engine)
        results[name] = {
            "history": history,
            "validation": before,
            "bytes": workers[1].optimizer_bytes_per_rank(),
            "micro_batches": len(workers[0].plan.step(0)[0]),
            "weights": {k: v.float() for k, v in weights.items()} if weights else None,
        }
    if rank == 0:
        torch.save(results, Path(folder) / f"results{world}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[pytest.param(1, marks=pytest.mark.full), 2])
def engines(
    request: Any, outputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[int, dict[str, Any]]:
    """(number of workers, results by case)."""
    import torch

    world, folder = request.param, tmp_path_factory.mktemp("engines")
    cases = _engine_cases(outputs, world)
    run_processes(_train_without_ray, world, world, str(folder), cases)
    return world, torch.load(folder / f"results{world}.pt")


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny models gain nothing from a second thread."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def references(outputs: dict[str, Path]) -> dict[str, Any]:
    """Results of plain torch for the same plan by family: losses by step, validation losses, final weights."""
    from pipelines.students.init import initial_student
    from pipelines.train.engine.deepspeed_engine import learning_rate
    from pipelines.train.engine.worker import make_plan
    from tests.support.reference_training import part_losses, reference_training

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
            "history": history,
            "validation": {"label": label.item(), "rationale": rationale.item()},
            "initial": initial,
            "weights": {k: v.detach().clone() for k, v in model.state_dict().items()},
        }
    return found


def test_engines_learn_what_plain_torch_learns(engines, references):
    """1 and 2 workers, with and without accumulation, all ZeRO stages, across a restart: one loss, one gradient norm, one model."""
    _, results = engines
    for name, found in results.items():
        family, stage, precision, _ = name.split("/")
        wanted = references[family]
        # The bound is wider for bf16 because it keeps 8 bits of each weight.
        near = 1e-5 if precision == "fp32" else 2e-2
        for mine, theirs in zip(found["history"], wanted["history"], strict=True):
            assert mine["label"] == pytest.approx(theirs["label"], rel=near), name
            assert mine["rationale"] == pytest.approx(theirs["rationale"], rel=near), name
            if "gradient_norm" in mine:
                assert mine["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=near), name
            else:
                assert (stage, precision) == ("0", "fp32")
        assert found["validation"] == pytest.approx(wanted["validation"], rel=near), name
        assert found["weights"].keys() == wanted["weights"].keys()
        if precision == "fp32":
            for key, weight in wanted["weights"].items():
                # By norm: Adam turns a gradient of pure rounding into a full step.
                off = (found["weights"][key] - weight).norm() / (weight - wanted["initial"][key]).norm()
                assert off < 1e-3, f"{name} {key}"


def test_accumulation_is_tried_and_varies(engines):
    _, results = engines
    counts = {name.rsplit("/", 1)[1]: found["micro_batches"] for name, found in results.items()}
    assert counts["60"] > 2
    assert counts["1000"] < counts["60"]


def test_zero_parts_the_optimizer_state(engines, outputs):
    world, results = engines
    for name, found in results.items():
        family, stage, precision, _ = name.split("/")
        parameters = sum(p.numel() for p in _model(outputs[family]).parameters())
        # Two moments, and master weights if separate from the model; each share is padded to even size.
        whole = 4 * parameters * (2 if (stage, precision) == ("0", "fp32") else 3)
        share = whole if stage == "0" else whole / world
        assert len(found["bytes"]) == world
        assert all(share <= held <= share + 1024 for held in found["bytes"]), (name, share, found["bytes"])


def _model(output: Path) -> Any:
    from pipelines.students.init import initial_student

    return initial_student(run_of(output).student, 0)[0]
