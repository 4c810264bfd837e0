"""Autoscaling of the endpoint: replicas and latencies over steps of 0, 1, N, 1 and 0 clients, and the cold start by phase.

The phases of the first response: the autoscaler requests a replica, the replica loads the student, the student answers. Imports and
loading are also measured alone, in a separate process.

    python -m tests.benchmarks.serve_scale OUTPUT --clients 32
"""

import argparse
import asyncio
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from pipelines.config.base import ReplicasConfig
from pipelines.config.serving import AutoscalingDelays, ServingConfig
from tests.benchmarks.results import publish
from tests.benchmarks.students import SHAPES, student
from tests.support.endpoints import free_port
from tests.support.local_ray import local_ray

_LOAD = """
import sys, time
begin = time.perf_counter()
from pipelines.config.serving import ServingConfig
from serving.model_card import read_card
from serving.engines.select import start_engine
imported = time.perf_counter()
class Metrics:
    def batch(self, waited_s): pass
    def waited(self, seconds): pass
start_engine(read_card("student", sys.argv[1]), ServingConfig(), Metrics())
print(f"{imported - begin:.2f} {time.perf_counter() - imported:.2f}")
"""


@dataclass
class Timeline:
    """Events, in seconds from the start."""

    begin: float = field(default_factory=time.monotonic)
    clients: list[tuple[float, int]] = field(default_factory=list)
    replicas: list[tuple[float, int, int]] = field(default_factory=list)
    """(time, running, starting)"""
    answers: list[tuple[float, float]] = field(default_factory=list)
    """(time of the request, latency)"""
    failed: list[str] = field(default_factory=list)

    def now(self) -> float:
        return time.monotonic() - self.begin


async def step(timeline: Timeline, url: str, clients: int, seconds: float) -> None:
    """Closed-loop clients for a number of seconds. Without clients, only wait."""
    timeline.clients.append((timeline.now(), clients))
    until = timeline.now() + seconds

    async def client() -> None:
        async with httpx.AsyncClient(timeout=180.0) as http:
            while (sent := timeline.now()) < until:
                body = {"inputs": [f"Anne has {sent:.0f} apples and gives 2 away."]}
                response = await http.post(f"{url}/v1/predict", json=body)
                if response.status_code != 200:
                    timeline.failed.append(f"{response.status_code} {response.text[:200]}")
                else:
                    timeline.answers.append((sent, timeline.now() - sent))

    if clients:
        await asyncio.gather(*(client() for _ in range(clients)))
    else:
        await asyncio.sleep(seconds)
    timeline.clients.append((timeline.now(), clients))


def record_replicas(timeline: Timeline, stop: threading.Event) -> None:
    """Record replicas until `stop` is set."""
    from ray import serve

    while not stop.wait(0.1):
        applications = serve.status().applications
        deployments = (d for name, a in applications.items() if "student" in name for d in a.deployments.values())
        states = next((deployment.replica_states for deployment in deployments), {})
        counts = {str(getattr(state, "value", state)): count for state, count in states.items()}
        timeline.replicas.append((timeline.now(), counts.get("RUNNING", 0), counts.get("STARTING", 0)))


def wait_for_zero(timeline: Timeline, seconds: float) -> None:
    """Wait until no replica is left."""
    deadline = timeline.now() + seconds
    while timeline.replicas and timeline.replicas[-1][1:] != (0, 0) and timeline.now() < deadline:
        time.sleep(0.5)


def phases(timeline: Timeline, sent_at: float) -> list[dict[str, Any]]:
    """The cold start: from zero replicas to the first response."""
    starting = next(when for when, running, begun in timeline.replicas if when > sent_at and (begun or running))
    running = next(when for when, ready, _ in timeline.replicas if when > sent_at and ready)
    sent, took = min(timeline.answers)
    return [
        {"phase": "autoscaler requests a replica", "seconds": starting - sent_at},
        {"phase": "replica loads the student", "seconds": running - starting},
        {"phase": "student answers", "seconds": sent + took - running},
        {"phase": "all", "seconds": sent + took - sent_at},
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--student", choices=sorted(SHAPES), default="t5-small-shape")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=40.0, help="duration of each step")
    options = parser.parse_args()
    from serving.deploy.rollout import serve_students

    folder = student(options.student, options.output.absolute())
    serving = ServingConfig(
        port=free_port(), replicas=ReplicasConfig(min=0, max=2), max_new_tokens=16, target_ongoing_requests=8,
        delays=AutoscalingDelays(up_s=2.0, down_s=8.0, to_zero_s=10.0),
    )  # fmt: skip
    timeline, stop = Timeline(), threading.Event()
    with local_ray():
        endpoint = serve_students({"student": str(folder)}, serving)
        try:
            recorder = threading.Thread(target=record_replicas, args=(timeline, stop))
            recorder.start()
            time.sleep(2.0)
            wait_for_zero(timeline, 60.0)
            sent_at = timeline.now()
            for clients in (1, options.clients, 1):
                asyncio.run(step(timeline, endpoint.url, clients, options.seconds))
            timeline.clients.append((timeline.now(), 0))
            wait_for_zero(timeline, 90.0)
            timeline.clients.append((timeline.now(), 0))
            stop.set()
            recorder.join()
        finally:
            endpoint.shutdown()
    alone = subprocess.check_output([sys.executable, "-c", _LOAD, str(folder)], text=True).split()
    rows = phases(timeline, sent_at)
    for (begin, clients), (end, _) in zip(timeline.clients[0:6:2], timeline.clients[1:6:2], strict=True):
        middle = median([took for sent, took in timeline.answers if begin <= sent < end])
        rows.append({"phase": f"{clients} clients: p50", "seconds": middle})
    publish(
        f"serve_scale_{options.student}", rows, imports_s=float(alone[-2]), loading_s=float(alone[-1]),
        answered=len(timeline.answers), failed=len(timeline.failed), why=timeline.failed[:3],
        most_replicas=max(running for _, running, _ in timeline.replicas), replicas_at_the_end=timeline.replicas[-1][1],
    )  # fmt: skip


if __name__ == "__main__":
    main()
