"""Clients that ask an endpoint one after the other, for some seconds. A process of its own; JSON on stdout.

python -m tests.benchmarks.http_load URL BODIES.jsonl --clients 32 --seconds 20
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


async def load(url: str, bodies: list[bytes], clients: int, seconds: float, warm_s: float) -> dict[str, Any]:
    """Requests per second and latencies of those that were sent after the warm-up, and what was no answer."""
    following = itertools.cycle(bodies)
    took: list[float] = []
    failed: list[str] = []
    begins = time.monotonic() + warm_s
    ends = begins + seconds

    async def client() -> None:
        async with httpx.AsyncClient(timeout=120.0, limits=httpx.Limits(max_connections=1)) as http:
            while (sent := time.monotonic()) < ends:
                response = await http.post(url, content=next(following), headers={"content-type": "application/json"})
                if response.status_code != 200:
                    failed.append(f"{response.status_code} {response.text[:200]}")
                elif sent >= begins:
                    took.append(time.monotonic() - sent)

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
    parser.add_argument("--warm", type=float, default=3.0, help="seconds that are not counted")
    options = parser.parse_args()
    bodies = options.bodies.read_bytes().splitlines()
    print(json.dumps(asyncio.run(load(options.url, bodies, options.clients, options.seconds, options.warm))))


if __name__ == "__main__":
    main()
