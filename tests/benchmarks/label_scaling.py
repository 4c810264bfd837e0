"""Scaling of labelling: rows/s of `raystill label` with the echo teacher, by actors and nodes. All nodes are on this machine.

`waiting` actors answer 16 rows at a time after 0.2 s, like an engine on a GPU: at most 80 rows/s each. Any loss is overhead of the
dataset, the driver and the shared cores. `instant` actors answer immediately: they measure Raystill's code on this machine's cores.

Rates cover only the time in which all actors are ready, since starting an actor costs seconds of a shared core.

    python -m tests.benchmarks.label_scaling
    python -m tests.benchmarks.label_scaling --nodes 3 --actors 8 --kinds waiting
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from tests.benchmarks.label_ceiling import corpus_rows
from tests.benchmarks.results import publish
from tests.support.commands import COMMAND, environment
from tests.support.nodes import Cluster, ray_nodes

LATENCY_S, BATCH = 0.2, 16
SECONDS = 12.0
"""Work for waiting actors after all are ready."""
START_S = 2.0
"""Additional work per actor, for the others during its start."""
INSTANT_ROWS = 60_000


def labelled(folder: Path, cluster: Cluster, nodes: int, actors: int, kind: str) -> dict[str, Any]:
    ideal = actors * BATCH / LATENCY_S
    waiting = kind == "waiting"
    rows = int(ideal * (SECONDS + START_S * actors / 2)) if waiting else INSTANT_ROWS
    corpus = folder / f"{rows}.jsonl"
    with corpus.open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in corpus_rows(rows))
    teacher = {"latency_s": LATENCY_S, "vllm": {"max_num_seqs": BATCH}} if waiting else {}
    run = {
        "name": "scaling", "output": str(folder / "out"), "task": "arithmetic", "corpus": {"train": str(corpus)},
        "teacher": {"engine": "echo", "replicas": {"min": actors, "max": actors}, **teacher}, "student": {"model": "none"},
    }  # fmt: skip
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    shutil.rmtree(folder / "out", ignore_errors=True)
    samples = watch_progress(
        [*COMMAND, "label", str(folder / "run.yaml")], folder / "out/labels/progress.json", cluster
    )
    manifest = json.loads((folder / "out/labels/manifest.json").read_text())
    assert manifest["counts"]["accepted"] == rows, manifest["counts"]
    rate = full_rate(samples, actors) or manifest["details"]["throughput"]["rows_per_s"]
    by_node = manifest["details"]["nodes"]
    return {
        "actors": kind, "nodes": nodes, "count": actors, "rows": rows, "rows/s": rate, "ideal rows/s": ideal if waiting else "",
        "share": rate / ideal if waiting else "", "rows/s, start included": manifest["details"]["throughput"]["rows_per_s"],
        "nodes that labelled": len(by_node), "smallest node share": f"{min(by_node.values()) / rows:.0%}",
    }  # fmt: skip


def watch_progress(command: list[str], progress: Path, cluster: Cluster) -> list[tuple[float, int, int]]:
    """Run the command. Returns (time, rows done, ready engines) from its progress file; raises SystemExit if it fails."""
    samples: list[tuple[float, int, int]] = []
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment() | {"RAY_ADDRESS": cluster.address}
        )
        while process.poll() is None:
            with suppress(FileNotFoundError):
                state = json.loads(progress.read_text())
                now = (state["updated_s"], state["done"], state["engines"].get("engines", 0))
                if not samples or samples[-1][0] != now[0]:
                    samples.append(now)
            time.sleep(0.2)
        if process.returncode:
            log.seek(0)
            raise SystemExit(log.read()[-3000:].decode())
    return samples


def full_rate(samples: list[tuple[float, int, int]], actors: int) -> float | None:
    """Rows/s between the first and last sample with all actors ready. None with fewer than two."""
    full = [(when, done) for when, done, engines in samples if engines >= actors]
    if len(full) < 2:
        return None
    (begin, first), (end, last) = full[0], full[-1]
    return (last - first) / (end - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--kinds", nargs="+", choices=["waiting", "instant"], default=["waiting", "instant"])
    parser.add_argument("--name", default="label_scaling", help="name of the result file")
    options = parser.parse_args()
    table = []
    with tempfile.TemporaryDirectory() as folder:
        for nodes in options.nodes:
            # One CPU per actor and four for reading: with a single one, 8 actors on one node reach only 224 rows/s.
            with ray_nodes(nodes, cpus=max(options.actors) + 4) as cluster:
                for kind in options.kinds:
                    for actors in options.actors:
                        table.append(labelled(Path(folder), cluster, nodes, actors, kind))
                        print(json.dumps(table[-1]), file=sys.stderr, flush=True)
    publish(options.name, table)


if __name__ == "__main__":
    main()
