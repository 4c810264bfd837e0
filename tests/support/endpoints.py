"""Tiny students behind real Ray Serve."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from pipelines.config.base import ReplicasConfig
from pipelines.config.serving import ServingConfig
from pipelines.errors import UnparsableError
from pipelines.tasks import Example, load_task, task_spec
from serving.registry import TrafficSplit
from tests.support.tiny_students import TEXTS


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def small(**changes: Any) -> ServingConfig:
    """Settings for tiny students: transformers, which starts fastest, and one permanent replica."""
    replicas = ReplicasConfig(min=1, max=1)
    settings = {"port": free_port(), "replicas": replicas, "max_new_tokens": 8, "engine": "transformers", **changes}
    return ServingConfig(**settings)


@contextmanager
def endpoint_of(
    students: Mapping[str, Path], serving: ServingConfig, split: TrafficSplit | None = None
) -> Iterator[httpx.Client]:
    """A client of the endpoint, which runs for the duration of the block."""
    from serving.deploy.rollout import serve_students

    endpoint = serve_students({name: str(folder) for name, folder in students.items()}, serving, split)
    try:
        with httpx.Client(base_url=endpoint.url, timeout=60.0) as client:
            yield client
    finally:
        endpoint.shutdown()


def wait_until(
    condition: Callable[[], bool], seconds: float = 60.0, every_s: float = 0.5, of: Callable[[], Any] = lambda: "it"
) -> None:
    """Fails if the condition is not true in time. `of`: what to name in the failure."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {of()}"
        time.sleep(every_s)


def running_replicas(details: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Application -> its running replicas, from Serve's details of its applications."""
    return {
        name: [r for d in app["deployments"].values() for r in d["replicas"] if r["state"] == "RUNNING"]
        for name, app in details["applications"].items()
    }


class Load:
    """Clients that send one request after the other while the block runs, each on its own connections. All responses are kept."""

    def __init__(self, url: str, body: dict[str, Any], clients: int = 4, *, retry: bool = False) -> None:
        """`retry`: send a request again if its connection breaks."""
        self.clients, self.retried = clients, 0
        self.responses: list[httpx.Response] = []
        self.errors: list[httpx.HTTPError] = []
        self._url, self._body, self._retry, self._stop = url, body, retry, threading.Event()
        self._threads = [threading.Thread(target=self._send) for _ in range(clients)]

    def _send(self) -> None:
        with httpx.Client(base_url=self._url, timeout=60.0) as client:
            while not self._stop.is_set():
                try:
                    self.responses.append(client.post("/v1/predict", json=self._body))
                except httpx.TransportError as error:
                    if not self._retry or isinstance(error, httpx.TimeoutException):
                        self.errors.append(error)
                    else:
                        self.retried += 1
                        time.sleep(0.1)

    @property
    def failed(self) -> list[Any]:
        """Everything but responses with 200."""
        return [*self.errors, *((r.status_code, r.text) for r in list(self.responses) if r.status_code != 200)]

    def answered(self, more: int) -> None:
        wanted = len(self.responses) + more
        wait_until(lambda: len(self.responses) >= wanted, of=lambda: f"{wanted} responses ({self.failed[:3]})")

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def processes(part: str) -> list[psutil.Process]:
    """Processes of this test's Ray whose command line contains `part`. Ray names workers after their actors."""
    titles = [(p, " ".join(p.info["cmdline"] or [])) for p in psutil.process_iter(["cmdline"])]
    # The raylet has no parent here.
    raylets = [p for p, title in titles if f"{os.environ['RAY_TMPDIR']}/ray" in title and "raylet/raylet" in title]
    own = {child.pid for p in (psutil.Process(), *raylets) for child in p.children(recursive=True)}
    return [p for p, title in titles if p.pid in own and part in title]


def kill(part: str) -> int:
    """Kill -9 one process; returns its id."""
    victim = processes(part)[0]
    victim.kill()
    return int(victim.pid)


def longest(client: httpx.Client, tokens: int) -> tuple[dict[str, Any], float]:
    """A request for the longest text found, of at most `tokens`, and the duration of its stream."""
    found = []
    for text in [*TEXTS, *(text[::-1] for text in TEXTS)]:
        body = {"prompt": text, "stream": True, "max_tokens": tokens}
        began = time.monotonic()
        with client.stream("POST", "/v1/completions", json=body) as response:
            events = sum(1 for line in response.iter_lines() if line)
        found.append((events, time.monotonic() - began, body))
    events, seconds, body = max(found, key=lambda one: one[0])
    assert events > tokens // 4, "no text is long enough to disconnect from"
    return body, seconds


def stated(text: str) -> str:
    """The label in the task's form if the text is one."""
    try:
        return load_task(task_spec("arithmetic")).normalise(text, Example("", "", None))
    except UnparsableError:
        return text
