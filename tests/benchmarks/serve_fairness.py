"""The endpoint under load, with its default settings: throughput as load rises, and what some clients cost the others.

    throughput  8 to 128 clients with one input each; one client with requests of 1, 40 and 256 inputs
    bulk        4 clients with one input each, alone and beside 2 clients with 256
    short       1 client with answers of 2 tokens, alone and beside 8 clients with 64
    long        1 client with one input, alone and beside a request of 40 x 99,000 characters

`--code` takes another checkout, whose endpoint is measured by the same clients.

    python -m tests.benchmarks.serve_fairness DATA OUTPUT --student smollm2-4-layers --code . ../before
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.benchmarks.http_load import percentile
from tests.benchmarks.results import publish
from tests.benchmarks.serve_load import server
from tests.benchmarks.students import SHAPES, questions, student
from tests.support.endpoints import free_port


@dataclass
class Client:
    """A client that sends one body after the other."""

    path: str
    bodies: list[dict[str, Any]]
    inputs: int = 1
    took: list[float] = field(default_factory=list)
    """Seconds of each answer."""
    statuses: Counter[int] = field(default_factory=Counter)

    async def run(self, url: str, rounds: int | None) -> None:
        """Send so many requests; None: until it is cancelled."""
        async with httpx.AsyncClient(timeout=600.0, base_url=url) as http:
            for at in itertools.count() if rounds is None else range(rounds):
                sent = time.monotonic()
                response = await http.post(self.path, json=self.bodies[at % len(self.bodies)])
                self.statuses[response.status_code] += 1
                if response.status_code == 200:
                    self.took.append(time.monotonic() - sent)
                else:
                    await asyncio.sleep(0.1)


async def run(url: str, clients: list[Client], others: list[Client], rounds: int) -> float:
    """Seconds that the clients take for their rounds. The others send all the time, from one second before."""
    beside = [asyncio.create_task(other.run(url, None)) for other in others]
    await asyncio.sleep(1.0 if others else 0.0)
    began = time.monotonic()
    await asyncio.gather(*(client.run(url, rounds) for client in clients))
    seconds = time.monotonic() - began
    for task in beside:
        task.cancel()
    await asyncio.gather(*beside, return_exceptions=True)
    return seconds


def predicts(texts: list[str], inputs: int, offset: int = 0) -> Client:
    """A client with different texts in each request."""
    count = len(texts)
    bodies = [
        {"inputs": [texts[(offset + 7 * at + i) % count] for i in range(inputs)]}
        for at in range(1 if inputs > 1 else 40)
    ]
    return Client("/v1/predict", bodies, inputs)


def completions(texts: list[str], tokens: int, offset: int = 0) -> Client:
    """A client with answers of at most so many tokens."""
    bodies = [{"prompt": texts[(offset + at) % len(texts)], "max_tokens": tokens} for at in range(40)]
    return Client("/v1/completions", bodies)


def summary(case: str, clients: list[Client], seconds: float) -> dict[str, Any]:
    """A row of the table."""
    took = sorted(second for client in clients for second in client.took)
    statuses: Counter[int] = sum((client.statuses for client in clients), Counter())
    return {
        "case": case,
        "inputs_per_s": sum(len(client.took) * client.inputs for client in clients) / seconds,
        "p50_ms": 1000 * percentile(took, 0.5),
        "p95_ms": 1000 * percentile(took, 0.95),
        "max_ms": 1000 * (took[-1] if took else 0.0),
        "refused": sum(count for status, count in statuses.items() if status != 200),
    }


def cases(texts: list[str]) -> list[tuple[str, list[Client], list[Client], int]]:
    """Name, measured clients, clients beside them, requests of each measured client."""

    def clients(count: int, inputs: int = 1) -> list[Client]:
        return [predicts(texts, inputs, 3 * i) for i in range(count)]

    long = Client("/v1/predict", [{"inputs": [f"{i} apples " * 9_000 for i in range(40)]}])
    return [
        *((f"{count} clients", clients(count), [], 256 // count) for count in (8, 32, 64, 128)),
        *(
            (f"1 client, {inputs} inputs", clients(1, inputs), [], rounds)
            for inputs, rounds in ((1, 16), (40, 4), (256, 1))
        ),
        ("4 small clients alone", clients(4), [], 12),
        ("4 small clients beside 2 of 256 inputs", clients(4), clients(2, 256), 12),
        ("2 tokens alone", [completions(texts, 2)], [], 16),
        ("2 tokens beside 8 x 64 tokens", [completions(texts, 2)], [completions(texts, 64, i) for i in range(8)], 16),
        ("1 client alone", clients(1), [], 16),
        ("1 client beside 40 x 99,000 characters", clients(1), [long], 16),
    ]


def measure(url: str, texts: list[str], wanted: str) -> list[dict[str, Any]]:
    """The cases at one endpoint whose names contain `wanted`."""
    rows = []
    for name, measured, others, rounds in cases(texts):
        if wanted in name:
            rows.append(summary(name, measured, asyncio.run(run(url, measured, others, rounds))))
            time.sleep(2.5)  # bulk keeps its distance from interactive requests for 2 s
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--student", choices=sorted(SHAPES), default="smollm2-4-layers")
    parser.add_argument("--code", type=Path, nargs="+", default=[Path()])
    parser.add_argument("--case", default="", help="only cases whose names contain it")
    options = parser.parse_args()
    folder = student(options.student, options.output.absolute())
    texts = questions(options.data, 256)
    rows = []
    for code in options.code:
        port = free_port()
        settings = {"port": port, "replicas.min": 1, "replicas.max": 1, "max_new_tokens": 16}
        url = f"http://127.0.0.1:{port}"
        arguments = [
            "-m",
            "cluster",
            "serve",
            f"student={folder}",
            *(f"--set=serving.{k}={v}" for k, v in settings.items()),
        ]
        with server(arguments, f"{url}/readyz", {"PYTHONPATH": str(code.absolute())}, folder=code):
            httpx.post(f"{url}/v1/predict", json={"inputs": texts[:1]}, timeout=300.0).raise_for_status()
            rows += [{"code": code.absolute().name, **row} for row in measure(url, texts, options.case)]
            publish(f"serve_fairness_{options.student}", rows)


if __name__ == "__main__":
    main()
