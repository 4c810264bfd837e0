"""Cost of a killed driver: label a large corpus with the echo teacher, kill the driver at half, and rerun.

Counts every outcome, the rows that were answered twice, and the peak memory of both drivers.

    python -m tests.benchmarks.label_kill --rows 1000000
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.benchmarks.label_ceiling import corpus_rows
from tests.benchmarks.results import publish
from tests.benchmarks.watched import private_mib, watched
from tests.support.counting_task import answered, write_task
from tests.support.label_kills import Family, Labelling, check_complete


def rows_done(output: Path) -> int:
    """Rows with an outcome, from progress.json."""
    with suppress(FileNotFoundError, json.JSONDecodeError, KeyError):
        return int(json.loads((output / "labels/progress.json").read_text())["done"])
    return 0


def killed(command: list[str], output: Path, at_rows: int) -> tuple[float, float]:
    """Start the command and kill it after `at_rows` rows. Returns (seconds, peak private memory of the driver in MiB)."""
    begin, peak = time.monotonic(), 0.0
    with tempfile.TemporaryDirectory(prefix="rs-", dir="/tmp") as sockets:
        process = subprocess.Popen(command, env={**os.environ, "RAY_TMPDIR": sockets}, stdout=subprocess.DEVNULL)
        family, watched_driver = Family(process.pid), psutil.Process(process.pid)
        try:
            while rows_done(output) < at_rows:
                if process.poll() is not None:
                    raise SystemExit(f"the command exited with {process.returncode} before the kill")
                family.look()
                peak = max(peak, private_mib(watched_driver))
                time.sleep(0.1)
            family.kill("driver")
            process.wait()
        finally:
            family.end()
    return time.monotonic() - begin, peak


def measure(folder: Path, rows: int) -> dict[str, Any]:
    corpus = folder / "corpus.jsonl"
    with corpus.open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in corpus_rows(rows))
    task, log = write_task(folder)
    run = {"name": "kill", "output": str(folder / "out"), "task": str(task), "corpus": {"train": str(corpus)},
           "teacher": {"engine": "echo"}, "student": {"model": "none"}}  # fmt: skip
    run_file = folder / "run.yaml"
    run_file.write_text(yaml.safe_dump(run))
    labelling = Labelling(run_file, folder / "out")
    command = [sys.executable, "-m", "cluster", "label", str(run_file)]
    first_s, first_peak = killed(command, labelling.output, rows // 2)
    with tempfile.TemporaryDirectory(prefix="rs-", dir="/tmp") as sockets:
        second_s, second_peak = watched(command, {"RAY_TMPDIR": sockets})
    check_complete(labelling, {row["id"] for row in corpus_rows(rows)})
    manifest = json.loads((labelling.output / "labels/manifest.json").read_text())
    again = answered(log) - rows
    return {
        "rows": rows,
        "finished at the kill": manifest["details"]["resumed_at_rows"],
        "labelled again": again,
        "share": f"{again / rows:.3%}",
        "until the kill s": first_s,
        "rerun s": second_s,
        "driver peaks MiB": f"{first_peak:.0f}, {second_peak:.0f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        publish("label_kill", [measure(Path(folder), options.rows)])


if __name__ == "__main__":
    main()
