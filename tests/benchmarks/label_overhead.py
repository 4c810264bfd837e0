"""Overhead of labelling: rows/s of `raystill label` against bare `vllm.LLM.generate`, with the same prompts, model and settings.

Engine start is excluded and listed separately: labelling counts from the first ready engine to the last outcome. Pairs alternate,
each command in its own process. The result is the median of the ratios.

    python -m tests.benchmarks.label_overhead                                     SmolLM2-135M on CPUs
    python -m tests.benchmarks.label_overhead --gpu --model FOLDER --task arithmetic --corpus FILE --max-num-seqs 1024
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from pipelines.config.load import load_run
from pipelines.label.teachers.vllm import teacher_environment
from pipelines.recipes.word_problems import train_rows
from tests.benchmarks.results import median, publish


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder (default: embedded teacher)")
    parser.add_argument("--corpus", help="JSON Lines (default: word problems)")
    parser.add_argument("--task", default="arithmetic")
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--max-num-seqs", type=int, default=96)
    parser.add_argument("--max-model-len", type=int, default=1024)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--name", default="label_overhead", help="name of the result file")
    return parser.parse_args(given)


def run_file(folder: Path, options: argparse.Namespace) -> Path:
    model = options.model
    if model is None:
        from pipelines.students.embedded_teacher import embedded_teacher

        model = str(embedded_teacher())
    corpus = options.corpus
    if corpus is None:
        corpus = str(folder / "corpus.jsonl")
        rows = ({**row, "id": f"r{i}"} for i, row in enumerate(train_rows(options.rows, seed=1)))
        Path(corpus).write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = {
        "name": "overhead",
        "output": str(folder / "out"),
        "task": options.task,
        "corpus": {"train": corpus, "limit": options.rows},
        "teacher": {
            "engine": "vllm",
            "model": model,
            "gpus_per_replica": int(options.gpu),
            "sampling": {"max_tokens": options.max_tokens},
            "vllm": {"max_model_len": options.max_model_len, "max_num_seqs": options.max_num_seqs},
        },
        "labelling": {"max_reject_share": 1.0},
        "student": {"model": "none"},
    }
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(run))
    return file


def bare(file: Path) -> dict[str, Any]:
    run = load_run(file)
    environment = {} if run.teacher.gpus_per_replica else teacher_environment(run.teacher)
    output = _run([sys.executable, "-m", "tests.benchmarks.bare_vllm", str(file)], environment)
    # vLLM logs to standard output too.
    return dict(json.loads(next(line for line in reversed(output.splitlines()) if line.startswith('{"rows"'))))


def labelled(file: Path) -> dict[str, Any]:
    shutil.rmtree(file.parent / "out", ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="rs-", dir="/tmp") as sockets:
        _run([sys.executable, "-m", "cluster", "label", str(file)], {"RAY_TMPDIR": sockets})
    manifest = json.loads((file.parent / "out/labels/manifest.json").read_text())
    throughput = manifest["details"]["throughput"]
    assert throughput["rows"] == manifest["counts"]["read"], "not every row reached the teacher"
    return {**throughput, **manifest["details"]["tokens"], "engine_start_s": manifest["timings_s"]["engine_start"]}


def _run(command: list[str], environment: dict[str, str]) -> str:
    """Run a command. Returns its standard output; raises SystemExit if it fails."""
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return done.stdout


def main() -> None:
    options = arguments()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        file = run_file(Path(folder), options)
        for pair in range(options.pairs):
            sequence = (bare, labelled) if pair % 2 == 0 else (labelled, bare)
            found = {measure.__name__: measure(file) for measure in sequence}
            rows.append({
                "pair": pair + 1,
                "rows": found["bare"]["rows"],
                "bare rows/s": found["bare"]["rows_per_s"],
                "ours rows/s": found["labelled"]["rows_per_s"],
                "ratio": found["labelled"]["rows_per_s"] / found["bare"]["rows_per_s"],
                "bare tok/s": found["bare"]["output_tokens_per_s"],
                "ours tok/s": found["labelled"]["output_tokens_per_s"],
                "bare start s": found["bare"]["engine_start_s"],
                "ours start s": found["labelled"]["engine_start_s"],
                "busy": found["labelled"]["engine_busy_share"],
            })  # fmt: skip
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    publish(options.name, rows, median_ratio=median([row["ratio"] for row in rows]))


if __name__ == "__main__":
    main()
