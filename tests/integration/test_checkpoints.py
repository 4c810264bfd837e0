"""Checkpoints of real DeepSpeed engines resume with other worker numbers and ZeRO stages."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pipelines.storage.store import Store
from pipelines.train.data.token_table import Tokens
from pipelines.train.data.tokenise import tokenise
from tests.support.gloo_processes import run_processes
from tests.support.tiny_runs import label_rows, make_model, make_run, write_labels

pytestmark = [pytest.mark.integration, pytest.mark.deepspeed, pytest.mark.timeout(300)]

BEFORE, AFTER = 3, 3
CASES = [(stage, "fp32", "decoder-only") for stage in range(4)]
CASES += [(0, "bf16", "decoder-only"), (2, "bf16", "decoder-only"), (3, "bf16", "encoder-decoder")]


def _worker(output: Path, case: tuple[int, str, str], rank: int, world: int, stage: int | None = None) -> Any:
    from pipelines.students.init import initial_student
    from pipelines.train.engine.worker import Worker

    saved_stage, precision, family = case
    training = {"zero_stage": saved_stage if stage is None else stage, "precision": precision, "workers": world}
    run = make_run(output, str(output / family), training=training)
    tokens = Tokens(Store(f"{output}/tokens/{family}"), output)
    return Worker(run, initial_student(run.student, 0)[0], tokens, rank, world)


def _phase(rank: int, world: int, phase: str, folder: str, output: str) -> None:
    """One of `world` gloo processes. `save`: train, save, continue. `go-on`: load the checkpoint and continue.

    A checkpoint resumes in its own ZeRO stage and in the next.
    """
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank), PATH="")
    import torch
    import torch.distributed as dist

    from pipelines.train.engine import checkpoints
    from pipelines.train.engine.deepspeed_engine import prepare_deepspeed

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous-{phase}{world}", rank=rank, world_size=world
    )
    prepare_deepspeed(gpu=False)
    found: dict[Any, Any] = {}
    for case in CASES:
        saved = Path(folder, "-".join(map(str, case)))
        if phase == "save":
            worker = _worker(Path(output), case, rank, world)
            for step in range(BEFORE):
                worker.step(step)
            saved.mkdir(exist_ok=True)
            checkpoints.save(worker.engine, {"step": BEFORE}, saved, rank, world)
            found[case] = [worker.step(step) for step in range(BEFORE, BEFORE + AFTER)]
            continue
        for stage in (case[0], (case[0] + 1) % 4):
            worker = _worker(Path(output), case, rank, world, stage)
            checkpoints.load(worker.engine, saved, BEFORE)
            found[case, stage] = [worker.step(step) for step in range(BEFORE, BEFORE + AFTER)]
    if rank == 0:
        torch.save(found, Path(folder) / f"{phase}{world}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def histories(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[Any, Any], dict[int, dict[Any, Any]]]:
    """(case -> the undisturbed steps with 2 workers, workers -> (case, stage) -> the same steps resumed from the checkpoint)."""
    import torch

    from pipelines.train.checks import token_settings

    folder, output = tmp_path_factory.mktemp("checkpoints"), tmp_path_factory.mktemp("output")
    write_labels(output, label_rows(60))
    for family in ("decoder-only", "encoder-decoder"):
        make_model(family, output / family)
        settings = token_settings(make_run(output, str(output / family)))
        tokenise(Store(str(output / "labels")), settings, Store(f"{output}/tokens/{family}"))
    run_processes(_phase, 2, 2, "save", str(folder), str(output))
    for world in (1, 2):
        run_processes(_phase, world, world, "go-on", str(folder), str(output))
    return torch.load(folder / "save2.pt"), {world: torch.load(folder / f"go-on{world}.pt") for world in (1, 2)}


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_a_resumed_training_joins_the_undisturbed_one(histories: Any, case: tuple[int, str, str], world: int) -> None:
    undisturbed, resumed = histories
    near = 1e-5 if case[1] == "fp32" else 2e-2
    for stage in (case[0], (case[0] + 1) % 4):
        for mine, theirs in zip(resumed[world][case, stage], undisturbed[case], strict=True):
            assert mine["loss"] == pytest.approx(theirs["loss"], rel=near), (stage, resumed[world][case, stage])
