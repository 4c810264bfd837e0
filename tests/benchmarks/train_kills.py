"""Loss curves of killed trainings against an undisturbed one, as a table and a plot.

A small Llama learns recorded labels with DeepSpeed ZeRO 2 on two workers. The cases kill a worker, the driver, and all processes
during a checkpoint. The last case resumes with one worker and then with two.

    python -m tests.benchmarks.train_kills DATA
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.benchmarks.results import OUT, publish
from tests.benchmarks.train_methods import tiny_models
from tests.benchmarks.trained import labels_of, recorded
from tests.support.training_kills import Training

TRAINING = {
    "workers": 2, "zero_stage": 2, "precision": "fp32", "epochs": 1, "tokens_per_batch": 2048, "tokens_per_micro_batch": 2048,
    "max_input_tokens": 256, "max_target_tokens": 128, "learning_rate": 1e-3, "checkpoint_every_steps": 5, "keep_checkpoints": 3,
}  # fmt: skip


def undisturbed(training: Training) -> None:
    training.finish()


def worker(training: Training) -> None:
    """Kill a worker after the second checkpoint. The run recovers without a rerun."""
    assert training.kill("worker", lambda: len(training.committed()) >= 2), training.log()


def driver(training: Training) -> None:
    training.kill("driver", lambda: len(training.committed()) >= 2)
    training.finish()


def node_while_storing(training: Training) -> None:
    """Kill all processes while a checkpoint is incomplete, after two complete ones."""
    training.kill("node", lambda: len(training.committed()) >= 2 and training.is_storing())
    training.finish()


def two_one_two(training: Training) -> None:
    training.kill("driver", lambda: len(training.committed()) >= 1)
    before = len(training.committed())
    reached = [path.name for path in training.committed()]
    training.kill("driver", lambda: training.committed()[-1].name not in reached and before > 0, "training.workers=1")
    training.finish()


SCENARIOS: dict[str, Callable[[Training], None]] = {
    "undisturbed": undisturbed,
    "a worker": worker,
    "the driver": driver,
    "everything, while storing": node_while_storing,
    "2, 1, 2 workers": two_one_two,
}


def main() -> None:
    from cluster.commands.embedded_teacher import embedded_teacher

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", type=int, default=500)
    options = parser.parse_args()
    curves: dict[str, list[float]] = {}
    resumed: dict[str, list[int]] = {}
    table: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = tiny_models(folder, str(embedded_teacher()))["tiny Llama"]
        for number, (scenario, happen) in enumerate(SCENARIOS.items()):
            output = folder / str(number)
            run = labels_of(recorded(options.data)["svamp"], options.rows, output, validation=0.1)
            run |= {"student": {"model": model, "init": {"kind": "random"}}, "training": TRAINING}
            (output / "run.yaml").write_text(yaml.safe_dump(run))
            training = Training(output / "run.yaml", output)
            happen(training)
            details, curve = training.details(), [row["loss"] for row in training.history()]
            first = curves.setdefault("undisturbed", curve)
            curves[scenario], resumed[scenario] = curve, details["started_at_steps"]
            table.append({
                "killed": scenario, "steps": details["steps"], "resumed at": str(details["started_at_steps"]),
                "workers": str(details["world_sizes"]), "unusable checkpoints": len(details["damaged_checkpoints"]),
                "last loss": curve[-1], "largest deviation": max(abs(a / b - 1) for a, b in zip(curve, first, strict=True)),
            })  # fmt: skip
            print(json.dumps(table[-1]), file=sys.stderr, flush=True)
    publish("train_kills", table, curves=curves, plot=str(plot(curves, resumed)))


def plot(curves: dict[str, list[float]], resumed: dict[str, list[int]]) -> Path:
    """All curves, shifted to be distinguishable. Dots mark resumed steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    for number, (name, losses) in enumerate(curves.items()):
        raised = [loss + 0.15 * number for loss in losses]
        (line,) = axes.plot(raised, label=f"{name} (+{0.15 * number:.2f})", linewidth=1)
        marks = [step for step in resumed[name] if step]
        axes.plot(marks, [raised[step] for step in marks], "o", color=line.get_color())
    axes.set(xlabel="step", ylabel="loss (nats per token)", title="Killed trainings: dots mark resumed checkpoints")
    axes.legend(fontsize=8)
    OUT.mkdir(exist_ok=True)
    figure.savefig(OUT / "train_kills.png", dpi=120)
    return OUT / "train_kills.png"


if __name__ == "__main__":
    main()
