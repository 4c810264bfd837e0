"""Replayed labels, trainings through the command, and their step times."""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from tests.support.corpora import train_rows, write_jsonl

LEARNING_RATE = 1e-4
SKIPPED_STEPS = 5
"""Untimed steps at the start, also of the reference."""
_POOL = 2_000
_LONGEST = 6


@dataclass(frozen=True)
class Dataset:
    """Recorded outputs of a real teacher."""

    name: str
    task: str
    corpus: Path
    outputs: Path


def recorded(data: Path) -> dict[str, Dataset]:
    """Datasets of a folder: CommonsenseQA and SVAMP with PaLM 540B, grade-school math with a 1.5B teacher."""
    return {
        "cqa": Dataset("cqa", "multiple-choice", data / "cqa/train.jsonl", data / "cqa/train.palm-540b.jsonl"),
        "gsm8k": Dataset(
            "gsm8k", "grade-school-math", data / "gsm8k/train.jsonl", data / "gsm8k/train.qwen2.5-coder-1.5b.jsonl"
        ),
        "svamp": Dataset("svamp", "arithmetic", data / "svamp/train.jsonl", data / "svamp/train.palm-540b.jsonl"),
    }


def made_up(folder: Path, rows: int) -> Dataset:
    """Inputs of 1 to 6 word problems, so that their lengths differ, and outputs that solve each. The label is that of the last problem."""
    folder.mkdir(parents=True, exist_ok=True)
    draw, pool = random.Random(0), train_rows(_POOL)
    corpus: list[dict[str, str]] = []
    outputs: list[dict[str, str]] = []
    for number in range(rows):
        problems = draw.sample(pool, draw.randint(1, _LONGEST))
        label = problems[-1]["label"]
        solutions = " ".join(f"{one['input']} That is {one['label']}." for one in problems)
        corpus.append({"id": f"r{number}", "input": " ".join(one["input"] for one in problems), "label": label})
        outputs.append({"id": f"r{number}", "output": f"{solutions} The answer is ({label})."})
    found = Dataset("made-up", "arithmetic", folder / "corpus.jsonl", folder / "outputs.jsonl")
    write_jsonl(found.corpus, corpus)
    write_jsonl(found.outputs, outputs)
    return found


def command(arguments: Iterable[str], environment: Mapping[str, str] | None = None) -> str:
    """Run a Python module. Returns its standard output; raises SystemExit if it fails."""
    with tempfile.TemporaryDirectory(prefix="rs-", dir="/tmp") as sockets:
        done = subprocess.run(
            [sys.executable, "-m", *arguments], capture_output=True, text=True, check=False,
            env={**os.environ, "RAY_TMPDIR": sockets, **(environment or {})},
        )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr[-3000:]}")
    return done.stdout


def labels_of(dataset: Dataset, rows: int, output: Path) -> dict[str, Any]:
    """Label the first rows by replay into OUTPUT/labels. Returns the run as a tree."""
    run = {
        "name": dataset.name, "output": str(output), "task": dataset.task,
        "corpus": {"train": str(dataset.corpus), "limit": rows, "validation": 0.0},
        "teacher": {"engine": "replay", "outputs": str(dataset.outputs)},
        "labelling": {"max_reject_share": 1.0},
        "student": {"model": "none"},
    }  # fmt: skip
    stage("label", run, output)
    return run


def stage(name: str, run: Mapping[str, Any], output: Path) -> dict[str, Any]:
    """Run a stage with --replace. Returns the manifest of its artifact."""
    output.mkdir(parents=True, exist_ok=True)
    file = output / "run.yaml"
    file.write_text(yaml.safe_dump(dict(run)))
    shutil.rmtree(output / "tensorboard", ignore_errors=True)
    command(["cluster", name, str(file), "--replace"])
    artifact = {"label": "labels", "train": "student", "evaluate": "report"}[name]
    return dict(json.loads((output / artifact / "manifest.json").read_text()))


def reference_rows(output: Path, target: Path) -> None:
    """Write labels for the reference trainer: input, gold label and rationale. Rows without a rationale are skipped."""
    rows = pq.read_table(output / "labels/data", columns=["input", "gold", "rationale"]).to_pylist()
    kept = [{"input": r["input"], "label": r["gold"], "rationale": r["rationale"]} for r in rows if r["rationale"]]
    target.write_text("".join(json.dumps(row) + "\n" for row in kept))


def steps_of(output: Path) -> dict[str, float]:
    """Tokens/s and seconds per step of the latest training below OUTPUT, without the first steps."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    newest = max((output / "tensorboard").iterdir(), key=lambda folder: folder.stat().st_mtime)
    events = EventAccumulator(str(newest), size_guidance={"scalars": 0})
    events.Reload()
    seconds = [event.value for event in events.Scalars("step_s")][SKIPPED_STEPS:]
    rates = [event.value for event in events.Scalars("tokens_per_s")][SKIPPED_STEPS:]
    tokens = sum(rate * took for rate, took in zip(rates, seconds, strict=True))
    return {"tokens_per_s": tokens / sum(seconds), "step_s": sum(seconds) / len(seconds), "steps": float(len(seconds))}
