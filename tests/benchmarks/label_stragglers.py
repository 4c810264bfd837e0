"""Stragglers: how full labelling keeps an engine with `max_num_seqs` slots and heavy-tailed latencies.

The ideal time is (sum of all latencies) / slots. It is known because the echo teacher draws latencies by row. Engine start and the last
rows count against labelling.

    python -m tests.benchmarks.label_stragglers
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from pipelines.config.load import load_run
from pipelines.label.teachers.echo import latency
from tests.benchmarks.label_ceiling import corpus_rows
from tests.benchmarks.results import publish
from tests.benchmarks.watched import watched


def measure(folder: Path, rows: int, slots: int, mean_s: float, tail: float | None) -> dict[str, Any]:
    corpus = folder / "corpus.jsonl"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in corpus_rows(rows)))
    teacher = {"engine": "echo", "latency_s": mean_s, "vllm": {"max_num_seqs": slots}}
    if tail:
        teacher["latency_tail"] = tail
    run = {"name": "stragglers", "output": str(folder / f"out-{tail}-{slots}"), "task": "arithmetic",
           "corpus": {"train": str(corpus)}, "teacher": teacher, "student": {"model": "none"}}  # fmt: skip
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(run))
    with tempfile.TemporaryDirectory(prefix="rs-", dir="/tmp") as sockets:
        watched([sys.executable, "-m", "cluster", "label", str(file)], {"RAY_TMPDIR": sockets})
    manifest = json.loads(Path(run["output"], "labels/manifest.json").read_text())
    config = load_run(file).teacher
    drawn = [latency(config, row["id"]) for row in corpus_rows(rows)]
    ideal = sum(drawn) / slots
    seconds = manifest["timings_s"]["label"]
    return {
        "latencies": f"Pareto {tail}" if tail else "constant",
        "rows": rows,
        "slots": slots,
        "mean s": sum(drawn) / rows,
        "longest s": max(drawn),
        "ideal s": ideal,
        "ours s": seconds,
        "of the ideal": ideal / seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--mean-s", type=float, default=0.25)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table = [measure(Path(folder), options.rows, options.slots, options.mean_s, tail) for tail in (None, 2.5, 1.5)]
    publish("label_stragglers", table)


if __name__ == "__main__":
    main()
