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

WARM_S = 2.0


@dataclass
class Client:
    """A client that sends one body after the other."""

    path: str
    bodies: list[dict[str, Any]]
    inputs: int = 1
    pause_s: float = 0.0
    took: list[float] = field(default_factory=list)
    """Seconds of the answers after the warm-up."""
    statuses: Counter[int] = field(default_factory=Counter)

    async def run(self, url: str, begins: float, ends: float) -> None:
        at = 0
        async with httpx.AsyncClient(timeout=300.0, base_url=url) as http:
            while (sent := time.monotonic()) < ends:
                response = await http.post(self.path, json=self.bodies[at % len(self.bodies)])
                at += 1
                self.statuses[response.status_code] += 1
                if response.status_code == 200 and begins <= time.monotonic() < ends:
                    self.took.append(time.monotonic() - sent)
                elif response.status_code != 200:
                    await asyncio.sleep(0.1)
                await asyncio.sleep(self.pause_s)


def run(url: str, clients: list[Client], seconds: float) -> None:
    """All clients at once."""

    async def all_clients() -> None:
        begins = time.monotonic() + WARM_S
        await asyncio.gather(*(client.run(url, begins, begins + seconds) for client in clients))

    asyncio.run(all_clients())


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


def measure(url: str, texts: list[str], seconds: float) -> list[dict[str, Any]]:
    """All cases at one endpoint."""
    rows = []

    def case(name: str, measured: list[Client], others: list[Client], longer: float = 1.0) -> None:
        run(url, [*measured, *others], longer * seconds)
        rows.append(summary(name, measured, longer * seconds))
        if others and name.endswith("256 inputs"):
            rows.append(summary(f"{name}: these", others, longer * seconds))

    for clients in (8, 32, 64, 128):
        case(f"{clients} clients", [predicts(texts, 1, 3 * i) for i in range(clients)], [])
    for inputs in (1, 40, 256):
        case(f"1 client, {inputs} inputs", [predicts(texts, inputs)], [], 2.0 if inputs == 256 else 1.0)
    small = lambda: [predicts(texts, 1, 3 * i) for i in range(4)]  # noqa: E731
    case("4 small clients alone", small(), [])
    case("4 small clients beside 2 of 256 inputs", small(), [predicts(texts, 256, i) for i in range(2)], 2.0)
    time.sleep(3.0)
    case("2 tokens alone", [completions(texts, 2)], [])
    case("2 tokens beside 8 x 64 tokens", [completions(texts, 2)], [completions(texts, 64, 5 * i) for i in range(8)])
    long = Client("/v1/predict", [{"inputs": [f"{i} apples " * 9_000 for i in range(40)]}], pause_s=1.0)
    case("1 client alone", [predicts(texts, 1)], [])
    case("1 client beside 40 x 99,000 characters", [predicts(texts, 1)], [long])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--student", choices=sorted(SHAPES), default="smollm2-4-layers")
    parser.add_argument("--code", type=Path, nargs="+", default=[Path()])
    parser.add_argument("--seconds", type=float, default=6.0)
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
            rows += [{"code": code.absolute().name, **row} for row in measure(url, texts, options.seconds)]
            publish(f"serve_fairness_{options.student}", rows)


if __name__ == "__main__":
    main()
