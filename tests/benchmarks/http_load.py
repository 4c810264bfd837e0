"""Load on an endpoint for some seconds, by clients that ask one after the other or at a fixed rate. A process of its own; JSON on stdout.

python -m tests.benchmarks.http_load URL BODIES.jsonl --clients 32 --seconds 20
python -m tests.benchmarks.http_load URL BODIES.jsonl --rate 40 --seconds 900
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import time
from pathlib import Path
from typing import Any

import httpx


def percentile(ordered: list[float], share: float) -> float:
    """The value below which that share of the values lies; 0 for none."""
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


async def load(
    url: str, bodies: list[bytes], clients: int, seconds: float, warm_s: float, rate: float | None
) -> dict[str, Any]:
    """Answers per second in the time after the warm-up, their latencies, and what was no answer.

    Where an answer takes longer than warm-up and time together, latencies are those of a queue that is still filling: lower bounds.

    Args:
        rate: requests per second, whether or not those before are answered; None: as fast as the clients get answers.
    """
    following = itertools.cycle(bodies)
    took: list[float] = []
    failed: list[str] = []
    begins = time.monotonic() + warm_s
    ends = begins + seconds

    async def ask(http: httpx.AsyncClient) -> None:
        sent = time.monotonic()
        response = await http.post(url, content=next(following), headers={"content-type": "application/json"})
        if response.status_code != 200:
            failed.append(f"{response.status_code} {response.text[:200]}")
        elif begins <= (answered := time.monotonic()) < ends:
            took.append(answered - sent)

    async def client() -> None:
        async with httpx.AsyncClient(timeout=120.0, limits=httpx.Limits(max_connections=1)) as http:
            while time.monotonic() < ends:
                await ask(http)

    if rate is None:
        await asyncio.gather(*(client() for _ in range(clients)))
    else:
        async with (
            httpx.AsyncClient(timeout=120.0, limits=httpx.Limits(max_connections=None)) as http,
            asyncio.TaskGroup() as tasks,
        ):
            due = time.monotonic()
            while due < ends:
                await asyncio.sleep(due - time.monotonic())
                tasks.create_task(ask(http))
                due += 1 / rate
    took.sort()
    shares = {f"p{round(100 * share)}_ms": 1000 * percentile(took, share) for share in (0.5, 0.95, 0.99)}
    return {"requests_per_s": len(took) / seconds, **shares, "failed": len(failed), "why": failed[:3]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("bodies", type=Path)
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--rate", type=float, help="requests per second, in place of clients")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--warm", type=float, default=3.0, help="seconds that are not counted")
    options = parser.parse_args()
    bodies = options.bodies.read_bytes().splitlines()
    asked = load(options.url, bodies, options.clients, options.seconds, options.warm, options.rate)
    print(json.dumps(asyncio.run(asked)))


if __name__ == "__main__":
    main()
