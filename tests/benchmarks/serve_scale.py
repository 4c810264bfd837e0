"""How the endpoint follows its load: steps of 0, 1, N and 0 clients; replicas and latencies over time, and the way from zero by phase.

The phases of the first answer: until the autoscaler wants a replica; until the replica's process has loaded the student (of which the
loading alone is measured in a process of its own afterwards); until the answer. The plot is benchmarks-out/serve_scale.png.

    python -m tests.benchmarks.serve_scale OUTPUT --clients 32
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from pipelines.config.base import ReplicasConfig
from pipelines.config.serving import AutoscalingDelays, ServingConfig
from tests.benchmarks.results import OUT, median, publish
from tests.benchmarks.students import SHAPES, student
from tests.support.endpoints import free_port
from tests.support.local_ray import local_ray

_LOAD = """
import sys, time
began = time.perf_counter()
from pipelines.config.serving import ServingConfig
from serving.model_card import read_card
from serving.engines.select import start_engine
imported = time.perf_counter()
class Metrics:
    def batch(self, waited_s): pass
    def waited(self, seconds): pass
start_engine(read_card("student", sys.argv[1]), ServingConfig(), Metrics())
print(f"{imported - began:.2f} {time.perf_counter() - imported:.2f}")
"""


@dataclass
class Seen:
    """What happened when, in seconds from the beginning."""

    began: float = field(default_factory=time.monotonic)
    clients: list[tuple[float, int]] = field(default_factory=list)
    replicas: list[tuple[float, int, int]] = field(default_factory=list)
    """(when, running, starting)"""
    answers: list[tuple[float, float]] = field(default_factory=list)
    """(when it was sent, seconds)"""
    failed: list[str] = field(default_factory=list)

    def now(self) -> float:
        return time.monotonic() - self.began


async def step(seen: Seen, url: str, clients: int, seconds: float) -> None:
    """So many clients for so long, each asking one question after the other; without clients, the time alone."""
    seen.clients.append((seen.now(), clients))
    until = seen.now() + seconds

    async def client() -> None:
        async with httpx.AsyncClient(timeout=180.0) as http:
            while (sent := seen.now()) < until:
                response = await http.post(
                    f"{url}/v1/predict", json={"inputs": [f"Anne has {sent:.0f} apples and gives 2 away."]}
                )
                if response.status_code != 200:
                    seen.failed.append(f"{response.status_code} {response.text[:200]}")
                else:
                    seen.answers.append((sent, seen.now() - sent))

    if clients:
        await asyncio.gather(*(client() for _ in range(clients)))
    else:
        await asyncio.sleep(seconds)
    seen.clients.append((seen.now(), clients))


def watch(seen: Seen, stop: threading.Event) -> None:
    """Note the replicas until it is told to stop."""
    from ray import serve

    while not stop.wait(0.1):
        applications = serve.status().applications
        states = next(
            (d.replica_states for name, a in applications.items() if "student" in name for d in a.deployments.values()),
            {},
        )
        counts = {str(getattr(state, "value", state)): count for state, count in states.items()}
        seen.replicas.append((seen.now(), counts.get("RUNNING", 0), counts.get("STARTING", 0)))


def wait_for_none(seen: Seen, seconds: float) -> None:
    """Until no replica is left."""
    until = seen.now() + seconds
    while seen.replicas and seen.replicas[-1][1:] != (0, 0) and seen.now() < until:
        time.sleep(0.5)


def phases(seen: Seen, asked: float) -> list[dict[str, Any]]:
    """The way from zero replicas to the first answer."""
    starting = next(when for when, running, begun in seen.replicas if when > asked and (begun or running))
    running = next(when for when, ready, _ in seen.replicas if when > asked and ready)
    sent, took = min(seen.answers)
    return [
        {"phase": "the autoscaler wants a replica", "seconds": starting - asked},
        {"phase": "process and student", "seconds": running - starting},
        {"phase": "the answer", "seconds": sent + took - running},
        {"phase": "all", "seconds": sent + took - asked},
    ]


def drawn(seen: Seen) -> Path:
    """Clients and replicas above, latencies below."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(9, 6), height_ratios=[1, 2])
    above.plot(*zip(*seen.clients, strict=True), color="tab:gray", label="clients")
    above.set_ylabel("clients")
    beside = above.twinx()
    times, running, starting = zip(*seen.replicas, strict=True)
    beside.step(times, running, where="post", color="tab:blue", label="replicas that answer")
    beside.step(times, [r + s for r, s in zip(running, starting, strict=True)], where="post", color="tab:blue", linestyle=":",
                label="with those that start")  # fmt: skip
    beside.set_ylabel("replicas")
    lines = above.get_lines() + beside.get_lines()
    above.legend(lines, [str(line.get_label()) for line in lines], loc="upper right", fontsize=8)
    below.scatter([sent + took for sent, took in seen.answers], [took for _, took in seen.answers], s=3, alpha=0.4)
    below.set_yscale("log")
    below.set_ylabel("seconds to the answer")
    below.set_xlabel("seconds")
    below.grid(alpha=0.3)
    figure.suptitle("The endpoint follows its load")
    figure.tight_layout()
    OUT.mkdir(exist_ok=True)
    figure.savefig(OUT / "serve_scale.png", dpi=120)
    return OUT / "serve_scale.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--student", choices=sorted(SHAPES), default="t5-small-shape")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=40.0, help="of each step")
    options = parser.parse_args()
    from serving.deploy.rollout import serve_students

    folder = student(options.student, options.output.absolute())
    serving = ServingConfig(
        port=free_port(), replicas=ReplicasConfig(min=0, max=2), max_new_tokens=16, target_ongoing_requests=8,
        delays=AutoscalingDelays(up_s=2.0, down_s=8.0, to_zero_s=10.0),
    )  # fmt: skip
    seen, stop = Seen(), threading.Event()
    with local_ray():
        endpoint = serve_students({"student": str(folder)}, serving)
        try:
            watcher = threading.Thread(target=watch, args=(seen, stop))
            watcher.start()
            time.sleep(2.0)
            wait_for_none(seen, 60.0)
            asked = seen.now()
            for clients in (1, options.clients, 1):
                asyncio.run(step(seen, endpoint.url, clients, options.seconds))
            seen.clients.append((seen.now(), 0))
            wait_for_none(seen, 90.0)
            seen.clients.append((seen.now(), 0))
            stop.set()
            watcher.join()
        finally:
            endpoint.shutdown()
    alone = subprocess.run(
        [sys.executable, "-c", _LOAD, str(folder)], capture_output=True, text=True, check=True
    ).stdout.split()
    rows = phases(seen, asked)
    steps = [
        {
            "phase": f"{clients} clients: p50",
            "seconds": median([took for sent, took in seen.answers if begin <= sent < end]),
        }
        for (begin, clients), (end, _) in zip(seen.clients[0:6:2], seen.clients[1:6:2], strict=True)
    ]
    publish(
        f"serve_scale_{options.student}", [*rows, *steps], imports_s=float(alone[-2]), loading_s=float(alone[-1]),
        answered=len(seen.answers), failed=len(seen.failed), why=seen.failed[:3],
        most_replicas=max(running for _, running, _ in seen.replicas), replicas_at_the_end=seen.replicas[-1][1], plot=str(drawn(seen)),
    )  # fmt: skip


if __name__ == "__main__":
    main()
