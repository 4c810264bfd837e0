"""Memory of labelling: peak private memory of the driver for corpora larger than Ray's object store.

The echo teacher answers immediately. The only worker node has an object store of 150 MiB.

    python -m tests.benchmarks.label_memory --mib 100 800
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from tests.benchmarks.label_ceiling import corpus_rows
from tests.benchmarks.results import publish
from tests.benchmarks.watched import watched
from tests.support.nodes import OBJECT_STORE_MIB, ray_nodes

TEXT_BYTES = 16 << 10


def measure(folder: Path, mib: int) -> dict[str, Any]:
    rows = (mib << 20) // TEXT_BYTES
    corpus = folder / f"{mib}.jsonl"
    with corpus.open("w") as file:
        for row in corpus_rows(rows):
            file.write(json.dumps({**row, "input": row["input"] + " " + "and so on " * (TEXT_BYTES // 10)}) + "\n")
    run = {"name": "memory", "output": str(folder / f"out-{mib}"), "task": "arithmetic", "corpus": {"train": str(corpus)},
           "teacher": {"engine": "echo"}, "student": {"model": "none"}}  # fmt: skip
    run_file = folder / "run.yaml"
    run_file.write_text(yaml.safe_dump(run))
    with ray_nodes(1) as cluster:
        wall, peak = watched(
            [sys.executable, "-m", "cluster", "label", str(run_file)], {"RAY_ADDRESS": cluster.address}
        )
    manifest = json.loads(Path(run["output"], "labels/manifest.json").read_text())
    assert manifest["counts"]["read"] == rows
    return {
        "corpus MiB": corpus.stat().st_size >> 20,
        "object store MiB": OBJECT_STORE_MIB,
        "rows": rows,
        "driver peak MiB": peak,
        "wall s": wall,
        "MiB/s": (corpus.stat().st_size >> 20) / manifest["timings_s"]["label"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, nargs="+", default=[100, 800], help="size of each corpus")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        publish("label_memory", [measure(Path(folder), mib) for mib in options.mib])


if __name__ == "__main__":
    main()
