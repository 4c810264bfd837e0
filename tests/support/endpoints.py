"""Tiny students behind real Ray Serve."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from pipelines.config.base import ReplicasConfig
from pipelines.config.serving import ServingConfig
from serving.registry import TrafficSplit


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def small(**changes: Any) -> ServingConfig:
    """Settings for tiny students: transformers, which starts fastest, and one permanent replica."""
    return ServingConfig(
        **{
            "port": free_port(),
            "replicas": ReplicasConfig(min=1, max=1),
            "max_new_tokens": 8,
            "engine": "transformers",
            **changes,
        }
    )


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
        self._retry = retry
        self.responses: list[httpx.Response] = []
        self.errors: list[httpx.HTTPError] = []
        self._url, self._body = url, body
        self._stop = threading.Event()
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
        """Wait for a number of further responses."""
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


Counted = Callable[[Load], None]
"""Records the outcomes of a load's requests (a fixture of tests/faults)."""
