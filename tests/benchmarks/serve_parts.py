"""Latency of one request by part: the engine, a replica's handle, `/healthz` and `/v1/predict`.

The targets alternate, so that other load on the machine affects all alike. The parts are medians in ms:

    engine                  the engine in this process
    handle and replica      the handle minus the engine: Serve's router and two processes
    proxy and ingress       `/healthz`: HTTP, Serve's proxy and the application, without a student
    the request itself      the rest of `/v1/predict`: validation, prompt, label and JSON

python -m tests.benchmarks.serve_parts DATA OUTPUT --student t5-small-shape --rounds 200
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx

from pipelines.config.base import ReplicasConfig
from pipelines.config.serving import ServingConfig
from tests.benchmarks.results import median, publish
from tests.benchmarks.students import SHAPES, questions, student
from tests.support.endpoints import free_port
from tests.support.local_ray import local_ray

NEW_TOKENS = 16
_WARM = 10
Send = Callable[[str], Awaitable[Any]]


async def alternate(targets: dict[str, Send], texts: list[str], rounds: int) -> dict[str, float]:
    """Median latency of each target in ms."""
    latencies: dict[str, list[float]] = {name: [] for name in targets}
    for number in range(_WARM + rounds):
        for name, send in targets.items():
            begin = time.perf_counter()
            await send(texts[number % len(texts)])
            if number >= _WARM:
                latencies[name].append(1000 * (time.perf_counter() - begin))
    return {name: median(values) for name, values in latencies.items()}


async def measured(folder: Path, url: str, serving: ServingConfig, texts: list[str], rounds: int) -> dict[str, float]:
    """Median latency of each target in ms."""
    from ray import serve

    from serving.engines.select import cpu_environment, start_engine
    from serving.messages import Question
    from serving.metrics import ReplicaMetrics
    from serving.model_card import read_card
    from serving.replica_client import STUDENT, application_of

    os.environ.update(cpu_environment(serving, ["vllm"]))  # the environment of a replica
    engine = start_engine(read_card("student", str(folder)), serving, ReplicaMetrics("student"))
    replica = serve.get_deployment_handle(STUDENT, application_of("student"))
    async with httpx.AsyncClient(timeout=60.0) as http:

        async def predict(text: str) -> None:
            (await http.post(f"{url}/v1/predict", json={"inputs": [text]})).raise_for_status()

        targets: dict[str, Send] = {
            "engine": lambda text: engine.answer(Question(text)),
            "handle": lambda text: _result(replica.answer.remote(Question(text))),
            "healthz": lambda text: http.get(f"{url}/healthz"),
            "predict": predict,
        }
        try:
            return await alternate(targets, texts, rounds)
        finally:
            await engine.close()


async def _result(response: Any) -> Any:
    return await response


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--student", choices=sorted(SHAPES), default="t5-small-shape")
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    from serving.deploy.rollout import serve_students

    folder = student(options.student, options.output.absolute())
    serving = ServingConfig(port=free_port(), replicas=ReplicasConfig(min=1, max=1), max_new_tokens=NEW_TOKENS)
    with local_ray():
        endpoint = serve_students({"student": str(folder)}, serving)
        httpx.post(f"{endpoint.url}/v1/predict", json={"inputs": ["How many?"]}, timeout=300.0).raise_for_status()
        try:
            texts = questions(options.data, 256)
            found = asyncio.run(measured(folder, endpoint.url, serving, texts, options.rounds))
        finally:
            endpoint.shutdown(ray_ends=True)
    parts = {
        "engine": found["engine"],
        "handle and replica": found["handle"] - found["engine"],
        "proxy and ingress": found["healthz"],
        "the request itself": found["predict"] - found["handle"] - found["healthz"],
        "all": found["predict"],
    }
    rows = [{"part": name, "median ms": value} for name, value in parts.items()]
    publish(f"serve_parts_{options.student}", rows, rounds=options.rounds)


if __name__ == "__main__":
    main()
