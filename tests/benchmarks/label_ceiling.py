"""Ceiling of labelling: rows/s and driver memory of `raystill label` with a teacher that answers immediately.

python -m tests.benchmarks.label_ceiling --rows 100000 1000000 --actors 1 2
python -m tests.benchmarks.label_ceiling --peers PYTHON         also distilabel and datatrove, from that Python
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from pipelines.recipes.word_problems import train_rows
from tests.benchmarks.results import publish
from tests.benchmarks.watched import watched

PEERS = Path(__file__).parent / "peers"
DISTINCT = 5000


def corpus_rows(count: int) -> Iterator[dict[str, str]]:
    """Word problems with unique ids. Texts repeat after 5,000."""
    rows = train_rows(DISTINCT, seed=1)
    for index in range(count):
        yield {**rows[index % DISTINCT], "id": f"w-{index:08d}"}


def labelled(corpus: Path, rows: int, actors: int) -> dict[str, Any]:
    folder = corpus.parent
    run = {
        "name": "ceiling", "output": str(folder / "out"), "task": "arithmetic", "corpus": {"train": str(corpus)},
        "teacher": {"engine": "echo", "replicas": {"min": actors, "max": actors}}, "student": {"model": "none"},
    }  # fmt: skip
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    shutil.rmtree(folder / "out", ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="rs-", dir="/tmp") as sockets:
        command = [sys.executable, "-m", "cluster", "label", str(folder / "run.yaml"), "--json"]
        wall, peak = watched(command, {"RAY_TMPDIR": sockets})
    manifest = json.loads((folder / "out/labels/manifest.json").read_text())
    assert manifest["counts"]["accepted"] == rows
    spent = manifest["timings_s"]["scan"] + manifest["timings_s"]["label"]
    return {
        "what": f"raystill, {actors} actor{'s' if actors > 1 else ''}",
        "rows": rows,
        "scan s": manifest["timings_s"]["scan"],
        "label s": manifest["timings_s"]["label"],
        "label rows/s": rows / manifest["timings_s"]["label"],
        "scan + label rows/s": rows / spent,
        "wall s": wall,
        "driver peak MiB": peak,
    }


def peer(python: str, name: str, corpus: Path, rows: int) -> dict[str, Any]:
    command = [python, str(PEERS / f"{name}_echo.py"), str(corpus), str(corpus.parent / f"out-{name}")]
    begin = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["rows"] == rows, found
    return {
        "what": f"{name} {found['version']}",
        "rows": rows,
        "label s": found["seconds"],
        "label rows/s": rows / found["seconds"],
        "scan + label rows/s": rows / found["seconds"],
        "wall s": time.monotonic() - begin,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000])
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--peers", help="Python with distilabel and datatrove")
    parser.add_argument("--name", default="label_ceiling", help="name of the result file")
    options = parser.parse_args()
    table = []
    with tempfile.TemporaryDirectory() as folder:
        for rows in options.rows:
            corpus = Path(folder) / f"{rows}.jsonl"
            with corpus.open("w") as file:
                file.writelines(json.dumps(row) + "\n" for row in corpus_rows(rows))
            measures = [labelled(corpus, rows, actors) for actors in options.actors]
            if options.peers:
                measures += [peer(options.peers, name, corpus, rows) for name in ("datatrove", "distilabel")]
            table += measures
            print(json.dumps(measures), file=sys.stderr, flush=True)
    publish(options.name, table)


if __name__ == "__main__":
    main()
