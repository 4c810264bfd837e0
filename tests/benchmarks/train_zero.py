"""Loss curves, memory and step time of the same training with ZeRO 0 to 3 and offload, on one worker and two.

Each case is a separate process group that trains the same steps from the same seed, on recorded outputs of a real teacher. The table
has the largest deviation of each loss curve from one worker without ZeRO, and the peak memory of a worker above its memory before the
model was created. Loss curves are plotted.

    python -m tests.benchmarks.train_zero DATA --model FOLDER [--layers 4] [--steps 20]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks.results import OUT, publish
from tests.benchmarks.trained import labels_of, recorded

CASES = [
    *(("fp32", stage, "none", workers) for workers in (1, 2) for stage in range(4)),
    *(("bf16", stage, "none", 2) for stage in range(4)),
    *(("fp32", stage, "optimizer", 2) for stage in (1, 2, 3)),
    ("fp32", 3, "parameters", 2),
]
"""Precision, ZeRO stage, offload, workers. The first case is the reference."""


def run_of(tree: dict[str, Any], model: str, layers: int | None, case: tuple[str, int, str, int]) -> Any:
    from pipelines.config.load import parse_run

    precision, zero_stage, offload, workers = case
    init = {"kind": "first-layers", "layers": layers} if layers else {"kind": "pretrained"}
    training = {
        "workers": workers, "precision": precision, "zero_stage": zero_stage, "offload": offload, "tokens_per_batch": 1024,
        "tokens_per_micro_batch": 1024, "max_input_tokens": 256, "max_target_tokens": 128, "learning_rate": 5e-4,
    }  # fmt: skip
    return parse_run({**tree, "student": {"model": model, "init": init}, "training": training})


def train(
    rank: int, world: int, folder: str, tree: dict[str, Any], options: Any, case: tuple[str, int, str, int]
) -> None:
    """One worker."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank))
    import resource
    import time

    import torch
    import torch.distributed as dist

    from pipelines.storage.store import Store
    from pipelines.students.init import initial_student
    from pipelines.train.data.token_table import Tokens
    from pipelines.train.engine.deepspeed_engine import prepare_deepspeed
    from pipelines.train.engine.worker import Worker

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    prepare_deepspeed(gpu=False)
    run = run_of(tree, options.model, options.layers, case)
    before = _peak_bytes(resource)
    tokens = Tokens(Store(f"{tree['output']}/tokens"), Path(folder))
    worker = Worker(run, initial_student(run.student, 0)[0], tokens, rank, world)
    losses, seconds = [], []
    for step in range(options.steps):
        begin = time.monotonic()
        losses.append(worker.step(step)["loss"])
        seconds.append(time.monotonic() - begin)
    found = {
        "losses": losses, "step_s": sorted(seconds)[len(seconds) // 2], "optimizer": worker.optimizer_bytes_per_rank(),
        "memory": _peak_bytes(resource) - before, "parameters": worker.parameters,
    }  # fmt: skip
    if rank == 0:
        Path(folder, "found.json").write_text(json.dumps(found))
    dist.barrier()
    # Running gloo threads sometimes abort an exiting process. The result is already on disk.
    os._exit(0)


def _peak_bytes(resource: Any) -> int:
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024


def plot(curves: dict[str, list[float]]) -> Path:
    """Plot all loss curves."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    for name, losses in curves.items():
        axes.plot(losses, label=name, linestyle="--" if "bf16" in name else "-", linewidth=1)
    axes.set(xlabel="step", ylabel="loss (nats per token)", title="The same training, ZeRO 0 to 3, one worker and two")
    axes.legend(fontsize=6, ncols=2)
    OUT.mkdir(exist_ok=True)
    figure.savefig(OUT / "train_zero.png", dpi=120)
    return OUT / "train_zero.png"


def main() -> None:
    import torch

    from pipelines.storage.store import Store
    from pipelines.train.checks import token_settings
    from pipelines.train.data.tokenise import tokenise

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rows", type=int, default=600)
    options = parser.parse_args()
    table, curves = [], {}
    with tempfile.TemporaryDirectory() as name:
        tree = labels_of(recorded(options.data)["svamp"], options.rows, Path(name))
        settings = token_settings(run_of(tree, options.model, options.layers, CASES[0]))
        tokenise(Store(f"{name}/labels"), settings, Store(f"{name}/tokens"))
        for case in CASES:
            precision, zero_stage, offload, workers = case
            with tempfile.TemporaryDirectory() as folder:
                torch.multiprocessing.spawn(train, (workers, folder, tree, options, case), nprocs=workers)
                found = json.loads(Path(folder, "found.json").read_text())
            title = f"{precision}, ZeRO {zero_stage}, {workers} workers" + (
                f", offload {offload}" if offload != "none" else ""
            )
            curves[title] = found["losses"]
            first = next(iter(curves.values()))
            table.append({
                "case": title, "first loss": found["losses"][0], "last loss": found["losses"][-1],
                "largest deviation": max(abs(a / b - 1) for a, b in zip(found["losses"], first, strict=True)),
                "memory MiB": found["memory"] / 2**20, "optimizer MiB": max(found["optimizer"]) / 2**20,
                "step s": found["step_s"],
            })  # fmt: skip
            print(json.dumps(table[-1]), file=sys.stderr, flush=True)
    publish("train_zero", table, curves=curves, plot=str(plot(curves)))


if __name__ == "__main__":
    main()
