"""Steady load at 70 % of the endpoint's capacity: latencies, failures, and the memory of each process at start and end.

python -m tests.benchmarks.serve_steady DATA OUTPUT --minutes 15
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.results import publish
from tests.benchmarks.serve_load import NEW_TOKENS, role_of, server
from tests.benchmarks.students import SHAPES, questions, student
from tests.benchmarks.watched import private_mib
from tests.support.endpoints import free_port


def memory(root: psutil.Process) -> dict[str, float]:
    """Private memory in MiB of a process and its descendants, by role."""
    found: dict[str, float] = {}
    for process in [root, *root.children(recursive=True)]:
        try:
            name = role_of(process)
        except psutil.NoSuchProcess:
            continue
        found[name] = found.get(name, 0.0) + private_mib(process)
    return found


def load(url: str, file: str, *arguments: str) -> subprocess.Popen[str]:
    """Start the load generator."""
    command = [sys.executable, "-m", "tests.benchmarks.http_load", url, file, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def result_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The load generator's result, after its end."""
    out, _ = process.communicate()
    found: dict[str, Any] = json.loads(out)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--student", choices=sorted(SHAPES), default="t5-small-shape")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--share", type=float, default=0.7)
    options = parser.parse_args()
    folder = student(options.student, options.output.absolute())
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    settings = {
        "port": port,
        "replicas.min": 1,
        "replicas.max": 1,
        "max_new_tokens": NEW_TOKENS,
        "max_queued_requests": 1024,
    }
    sets = [f"--set=serving.{key}={value}" for key, value in settings.items()]
    with (
        server(["-m", "cluster", "serve", f"student={folder}", *sets], f"{url}/readyz") as root,
        tempfile.NamedTemporaryFile("w", suffix=".jsonl") as bodies,
    ):
        bodies.write("".join(json.dumps({"inputs": [text]}) + "\n" for text in questions(options.data, 256)))
        bodies.flush()
        target = f"{url}/v1/predict", bodies.name
        capacity = result_of(load(*target, "--clients", "32", "--seconds", "20"))["requests_per_s"]
        rate = options.share * capacity
        running = load(*target, "--rate", str(rate), "--seconds", str(60 * options.minutes), "--warm", "0")
        time.sleep(min(60.0, 12 * options.minutes))
        first = memory(root)
        time.sleep(max(60 * options.minutes - 75.0, 1.0))
        last = memory(root)
        result = result_of(running)
    rows = [
        {"process": name, "MiB at the start": first[name], "MiB at the end": last.get(name, 0.0)}
        for name in sorted(first)
    ]
    publish(
        f"serve_steady_{options.student}", rows, capacity_per_s=capacity, rate_per_s=rate, minutes=options.minutes,
        requests=round(result["requests_per_s"] * 60 * options.minutes),
        **{key: result[key] for key in ("p50_ms", "p95_ms", "p99_ms", "failed")},
    )  # fmt: skip


if __name__ == "__main__":
    main()
