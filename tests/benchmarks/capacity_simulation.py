"""Capacity of one labelling driver: the real driver with simulated nodes that need no GPU.

python -m tests.benchmarks.capacity_simulation --nodes 1 10 30 100 300 1000 [--per-process 1 1 1 1 3 10] [--batch 64] [--latency 2.0]

The driver is real: scan, Ray Data, an actor pool, outcomes and commits. The first node is the real echo teacher; its rate is the rate of
a node. The others are stub actors: they wait as long and return constant outcomes, so a few cores hold many. If memory is short, one
process stands for several nodes and answers that many times as fast. Such points have fewer rows in flight than real nodes.

The table has rows/s offered (nodes x rate of a node) and achieved, the cores used by the driver (at most about one), by Ray's processes
and by the stubs, the driver's private memory, and the used object store. If the stubs use all cores before the driver uses one, the
driver's ceiling is an estimate: rows per second of its CPU time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa

from pipelines.config import RunConfig
from pipelines.label.answers.outcomes import OUTCOME
from pipelines.label.engines.actor import TeacherActor
from tests.benchmarks.results import publish
from tests.support.corpora import run_config, train_rows, write_jsonl

SECONDS = 40.0
MOST_ROWS = 200_000
DISTINCT = 5000


class StubActor(TeacherActor):
    """Accepts blocks like a node of the echo teacher with latency, without computing any row."""

    async def __call__(self, block: pa.Table) -> pa.Table:
        await self._ready()
        if not hasattr(self, "_batch"):
            # The first block is full.
            self._batch = asyncio.Semaphore(max(self._config.vllm.max_num_seqs // len(block), 1))
        with self._clock.holds(("train", str(block["id"][0]))):
            async with self._batch:
                await asyncio.sleep(self._config.latency_s)
        self._clock.report(self._health)
        return stub_outcomes(block)


def stub_outcomes(block: pa.Table) -> pa.Table:
    """Accepted outcomes of a block: each row's gold label and a rationale of typical length."""
    rows = len(block)
    constant = {
        "rationale": "The label of this example is known, and this text is as long as a rationale often is.", "votes": 1, "agreement": 1.0,
        "prompt_tokens": 400, "output_tokens": 30, "finish_reason": "stop", "agrees": True, "note": "", "content": 1, "node": "stub",
    }  # fmt: skip
    taken = {"split": "split", "id": "id", "input": "input", "gold": "gold", "label": "gold"}
    columns = [
        block[taken[field.name]].combine_chunks().cast(field.type)
        if field.name in taken
        else pa.repeat(pa.scalar(constant.get(field.name), field.type), rows)
        for field in OUTCOME
    ]
    return pa.table(columns, schema=OUTCOME)


def one_run(settings: dict[str, Any]) -> dict[str, Any]:
    """Label with stub or real nodes in this process. Returns start time and used object store."""
    import ray
    from ray.data import DataContext

    from pipelines.label.engines import dataset
    from pipelines.label.stage import label

    processes, folder = settings["processes"], settings["folder"]
    if settings["stub"]:
        dataset.TeacherActor = StubActor  # type: ignore[misc]
    # All nodes are ready before the first row: their start is not measured.
    DataContext.get_current().wait_for_min_actors_s = 600
    ray.init(
        address="local", num_cpus=processes + 4, include_dashboard=False, log_to_driver=False,
        object_store_memory=settings["store MiB"] << 20,
        # Otherwise Ray starts a worker for each declared CPU in advance.
        _system_config={"prestart_worker_first_driver": False, "enable_worker_prestart": False},
    )  # fmt: skip
    try:
        with sampled_store() as used:
            manifest = label(run_of(settings))
    finally:
        ray.shutdown()
    assert manifest.counts["accepted"] == settings["rows"]
    shutil.rmtree(folder)
    return {"start s": manifest.timings_s["engine_start"], "store MiB": max(used, default=0.0)}


def run_of(settings: dict[str, Any]) -> RunConfig:
    """The run. Writes its corpus."""
    folder = Path(settings["folder"])
    corpus = write_jsonl(folder / "corpus.jsonl", corpus_rows(settings["rows"]))
    # Several nodes per process: the same batch, answered faster. A larger batch would be thousands of concurrent calls, and Ray starts a
    # thread for each.
    teacher = {
        "engine": "echo", "latency_s": settings["latency"] / settings["per process"], "vllm": {"max_num_seqs": settings["batch"]},
        "replicas": {"min": settings["processes"], "max": settings["processes"]},
    }  # fmt: skip
    return run_config(teacher, train=corpus, output=str(folder / "out"))


@contextmanager
def sampled_store() -> Iterator[list[float]]:
    """Used MiB of the object store, sampled every 5 s while the block runs."""
    import ray

    used: list[float] = []
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(5.0):
            total, free = ray.cluster_resources(), ray.available_resources()
            used.append((total["object_store_memory"] - free.get("object_store_memory", 0.0)) / 2**20)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield used
    finally:
        stop.set()
        thread.join()


class DriverSampler:
    """Samples a driver every second: rows, private memory, and CPU seconds of the driver, Ray's processes and the workers."""

    def __init__(self, driver: subprocess.Popen[str], progress: Path) -> None:
        self._driver, self._progress = driver, progress
        self._known: dict[int, tuple[str, psutil.Process]] = {}
        self.samples: list[dict[str, float]] = []

    def run(self) -> None:
        """Sample until the driver ends."""
        process = psutil.Process(self._driver.pid)
        while self._driver.poll() is None:
            if len(self.samples) % 10 == 0:
                self._find(process)
            sample = {"at": time.monotonic(), "driver": 0.0, "ray": 0.0, "workers": 0.0, "driver MiB": 0.0}
            with contextlib.suppress(psutil.NoSuchProcess):
                memory = process.memory_info()
                sample["driver MiB"] = float(memory.rss - memory.shared) / 2**20
            for kind, member in self._known.values():
                with contextlib.suppress(psutil.NoSuchProcess):
                    sample[kind] += sum(member.cpu_times()[:2])
            with contextlib.suppress(FileNotFoundError):  # before the stage starts and after it ends
                progress = json.loads(self._progress.read_text())
                self.samples.append({**sample, "done": progress["done"], "updated": progress["updated_s"]})
            time.sleep(1.0)

    def _find(self, driver: psutil.Process) -> None:
        self._known = {driver.pid: ("driver", driver)}
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in driver.children(recursive=True):
                name = " ".join(process.cmdline()[:1])
                is_worker = name.startswith("ray::") and not name.endswith("Agent")
                self._known[process.pid] = ("workers" if is_worker else "ray", process)

    def steady(self, rows: int) -> dict[str, float]:
        """Rows/s and used cores between 30% and 90% of the rows, without start and end."""
        middle = [s for s in self.samples if 0.3 * rows <= s["done"] <= 0.9 * rows]
        first, last = middle[0], middle[-1]
        elapsed = last["at"] - first["at"]
        return {
            "rows/s": (last["done"] - first["done"]) / (last["updated"] - first["updated"]),
            **{f"{kind} cores": (last[kind] - first[kind]) / elapsed for kind in ("driver", "ray", "workers")},
            "driver MiB": max(s["driver MiB"] for s in self.samples),
        }


def point(nodes: int, per_process: int, rate: float | None, options: argparse.Namespace) -> dict[str, Any]:
    """One number of nodes, in a separate process. `rate`: rows/s of a node; None: measure it with the real teacher."""
    offered = (options.batch / options.latency if rate is None else rate) * nodes
    folder = tempfile.mkdtemp(prefix="rs-", dir="/tmp")
    settings = {
        "processes": -(-nodes // per_process), "per process": per_process, "batch": options.batch, "latency": options.latency,
        "stub": rate is not None, "rows": min(int(offered * options.seconds), options.most_rows), "store MiB": options.store_mib,
        "folder": folder,
    }  # fmt: skip
    command = [sys.executable, "-m", "tests.benchmarks.capacity_simulation", "--one", json.dumps(settings)]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, "RAY_TMPDIR": folder}
        )
        sampler = DriverSampler(process, Path(folder) / "out/labels/progress.json")
        sampler.run()
        assert process.stdout
        output = process.stdout.read()
        if process.returncode:
            errors.seek(0)
            raise SystemExit(f"{nodes} nodes: {errors.read()[-3000:]}")
    found = sampler.steady(settings["rows"])
    return {
        "nodes": nodes, "processes": settings["processes"], "teacher": "stub" if settings["stub"] else "echo", "rows": settings["rows"],
        "offered rows/s": offered, **found, "driver CPU us/row": 1e6 * found["driver cores"] / found["rows/s"],
        **json.loads(output.strip().splitlines()[-1]),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 10, 30, 100])
    parser.add_argument("--per-process", type=int, nargs="+", default=[1], help="nodes per process, for each --nodes")
    parser.add_argument("--batch", type=int, default=64, help="rows a node answers at once")
    parser.add_argument("--latency", type=float, default=2.0, help="seconds per row")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="duration at the offered rate")
    parser.add_argument("--most-rows", type=int, default=MOST_ROWS)
    parser.add_argument("--store-mib", type=int, default=1024)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one_run(json.loads(options.one))))
        return
    table = [point(1, 1, None, options)]
    print(json.dumps(table[0]), file=sys.stderr, flush=True)
    shares = options.per_process * len(options.nodes) if len(options.per_process) == 1 else options.per_process
    for nodes, per_process in zip(options.nodes, shares, strict=True):
        table.append(point(nodes, per_process, table[0]["rows/s"], options))
        print(json.dumps(table[-1]), file=sys.stderr, flush=True)
        publish("capacity_simulation", table)


def corpus_rows(count: int) -> Iterator[dict[str, str]]:
    """Word problems with unique ids. Texts repeat after 5,000."""
    rows = train_rows(DISTINCT)
    for index in range(count):
        yield {**rows[index % DISTINCT], "id": f"w-{index:08d}"}


if __name__ == "__main__":
    main()
