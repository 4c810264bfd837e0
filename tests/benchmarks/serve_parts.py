"""Where one client's time goes: the median of a question to the bare engine, to a replica by its handle, to `/healthz`, to `/v1/predict`.

The ways are taken in turn, a question each, so that what else the machine does meets all of them alike. The parts, in milliseconds:

    engine                  the question to the engine, in this process
    handle and replica      by its handle less the engine: Serve's router, two processes, the way there and back
    proxy and ingress       `/healthz`: HTTP, Serve's proxy, our application, no student
    the request itself      the rest of `/v1/predict`: reading and checking its body, the prompt, the answer's label and JSON

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
Ask = Callable[[str], Awaitable[Any]]


async def in_turn(ways: dict[str, Ask], texts: list[str], rounds: int) -> dict[str, float]:
    """The median milliseconds of each way."""
    took: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(_WARM + rounds):
        for name, ask in ways.items():
            began = time.perf_counter()
            await ask(texts[number % len(texts)])
            if number >= _WARM:
                took[name].append(1000 * (time.perf_counter() - began))
    return {name: median(values) for name, values in took.items()}


async def measured(folder: Path, url: str, serving: ServingConfig, texts: list[str], rounds: int) -> dict[str, float]:
    """Ask by all ways."""
    from ray import serve

    from serving.engines.select import cpu_environment, start_engine
    from serving.replica_client import STUDENT, application_of
    from serving.messages import Question
    from serving.metrics import ReplicaMetrics
    from serving.model_card import read_card

    os.environ.update(cpu_environment(serving, ["vllm"]))  # as a replica has it
    engine = start_engine(read_card("student", str(folder)), serving, ReplicaMetrics("student"))
    replica = serve.get_deployment_handle(STUDENT, application_of("student"))
    async with httpx.AsyncClient(timeout=60.0) as http:

        async def predict(text: str) -> None:
            (await http.post(f"{url}/v1/predict", json={"inputs": [text]})).raise_for_status()

        ways: dict[str, Ask] = {
            "engine": lambda text: engine.answer(Question(text)),
            "handle": lambda text: _result(replica.answer.remote(Question(text))),
            "healthz": lambda text: http.get(f"{url}/healthz"),
            "predict": predict,
        }
        try:
            return await in_turn(ways, texts, rounds)
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
