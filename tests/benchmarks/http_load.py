"""Load generator: clients that each wait for their response. Prints JSON.

python -m tests.benchmarks.http_load URL BODIES.jsonl --clients 32 --seconds 20
"""

import argparse
import asyncio
import itertools
import json
import time
from pathlib import Path
from typing import Any

import httpx


def percentile(ordered: list[float], share: float) -> float:
    """The value below which `share` of the values lie. 0 without values."""
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


async def load(url: str, bodies: list[bytes], clients: int, seconds: float, warm_s: float) -> dict[str, Any]:
    """Responses per second after the warm-up, their latencies, and failures.

    If a response takes longer than warm-up and measurement together, the queue is still filling and latencies are lower bounds.
    """
    following = itertools.cycle(bodies)
    took: list[float] = []
    failed: list[str] = []
    begins = time.monotonic() + warm_s
    ends = begins + seconds

    async def send(http: httpx.AsyncClient) -> None:
        sent = time.monotonic()
        response = await http.post(url, content=next(following), headers={"content-type": "application/json"})
        if response.status_code != 200:
            failed.append(f"{response.status_code} {response.text[:200]}")
        elif begins <= (answered := time.monotonic()) < ends:
            took.append(answered - sent)

    async def client() -> None:
        async with httpx.AsyncClient(timeout=120.0, limits=httpx.Limits(max_connections=1)) as http:
            while time.monotonic() < ends:
                await send(http)

    await asyncio.gather(*(client() for _ in range(clients)))
    took.sort()
    shares = {f"p{round(100 * share)}_ms": 1000 * percentile(took, share) for share in (0.5, 0.95, 0.99)}
    return {"requests_per_s": len(took) / seconds, **shares, "failed": len(failed), "why": failed[:3]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("bodies", type=Path)
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--warm", type=float, default=3.0, help="warm-up in seconds")
    options = parser.parse_args()
    bodies = options.bodies.read_bytes().splitlines()
    result = load(options.url, bodies, options.clients, options.seconds, options.warm)
    print(json.dumps(asyncio.run(result)))


if __name__ == "__main__":
    main()
