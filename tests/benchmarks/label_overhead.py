"""Overhead of labelling: rows/s of `raystill label` against bare `vllm.LLM.generate`, with the same prompts, model and settings.

Engine start is excluded and listed separately: labelling counts from the first ready engine to the last outcome. Pairs alternate,
each command in its own process. The result is the median of the ratios.

    python -m tests.benchmarks.label_overhead                                     SmolLM2-135M on CPUs
    python -m tests.benchmarks.label_overhead --gpu --model FOLDER --task arithmetic --corpus FILE --max-num-seqs 1024
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from pipelines.config.load import load_run
from pipelines.label.teachers.vllm import teacher_environment
from tests.benchmarks.results import publish
from tests.benchmarks.trained import command
from tests.support.corpora import run_config, write_jsonl
from tests.support.run_files import word_rows, write_run_file


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
    return parser.parse_args(given)


def run_file(folder: Path, options: argparse.Namespace) -> Path:
    from pipelines.students.embedded_teacher import embedded_teacher

    teacher = {
        "engine": "vllm", "model": options.model or str(embedded_teacher()), "gpus_per_replica": int(options.gpu),
        "sampling": {"max_tokens": options.max_tokens},
        "vllm": {"max_model_len": options.max_model_len, "max_num_seqs": options.max_num_seqs},
    }  # fmt: skip
    corpus = {
        "train": options.corpus or write_jsonl(folder / "corpus.jsonl", word_rows(options.rows)),
        "limit": options.rows,
    }
    settings = {"task": options.task, "corpus": corpus, "labelling": {"max_reject_share": 1.0}}
    return write_run_file(folder, run_config(teacher, output=str(folder / "out"), **settings))


def bare(file: Path) -> dict[str, Any]:
    run = load_run(file)
    environment = {} if run.teacher.gpus_per_replica else teacher_environment(run.teacher)
    output = command(["tests.benchmarks.bare_vllm", str(file)], environment)
    # vLLM logs to standard output too.
    return dict(json.loads(next(line for line in reversed(output.splitlines()) if line.startswith('{"rows"'))))


def labelled(file: Path) -> dict[str, Any]:
    shutil.rmtree(file.parent / "out", ignore_errors=True)
    command(["cluster", "label", str(file)])
    manifest = json.loads((file.parent / "out/labels/manifest.json").read_text())
    throughput = manifest["details"]["throughput"]
    assert throughput["rows"] == manifest["counts"]["read"], "not every row reached the teacher"
    return {**throughput, **manifest["details"]["tokens"], "engine_start_s": manifest["timings_s"]["engine_start"]}


def main() -> None:
    options = arguments()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        file = run_file(Path(folder), options)
        for pair in range(options.pairs):
            sequence = (bare, labelled) if pair % 2 == 0 else (labelled, bare)
            found = {measure.__name__: measure(file) for measure in sequence}
            figures = {"rows/s": "rows_per_s", "tok/s": "output_tokens_per_s", "start s": "engine_start_s"}
            both = {
                f"{who} {what}": found[of][key]
                for what, key in figures.items()
                for who, of in (("bare", "bare"), ("ours", "labelled"))
            }
            ratio, busy = both["ours rows/s"] / both["bare rows/s"], found["labelled"]["engine_busy_share"]
            rows.append({"pair": pair + 1, "rows": found["bare"]["rows"], **both, "ratio": ratio, "busy": busy})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    publish("label_overhead", rows, median_ratio=median([row["ratio"] for row in rows]))


if __name__ == "__main__":
    main()
