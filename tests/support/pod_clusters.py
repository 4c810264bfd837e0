"""Ray clusters of pods, started and queried as KubeRay's operator does, and a Service in front of workers."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx

from tests.support.endpoints import Load, running_replicas, wait_until
from tests.support.k8s.kuberay_pods import DASHBOARD_PORT, RayPods
from tests.support.k8s.namespaces import Node, RunningPod

START_S = 90.0
DEPLOY_S = 120.0
_PAUSE_S = 0.05


@dataclass
class Cluster:
    """The pods of one RayCluster, and requests to its dashboard."""

    pods: RayPods
    node: Node
    number: int
    """Number of the head in the network. Its workers follow."""
    token: str
    head: RunningPod = field(init=False)
    workers: list[RunningPod] = field(default_factory=list)

    def start(self, workers: int) -> None:
        """Start head and workers at once, as the operator does. Workers wait for the head in their init container."""
        self.head = self.node.start(self.pods.head(), self.number)
        for _ in range(workers):
            self.add_worker()
        self.wait(self.head.ready, "head is ready")
        for worker in self.workers:
            self.wait(partial(worker.probe, "livenessProbe"), f"{worker.name} is alive")

    def add_worker(self) -> RunningPod:
        """Start one more worker, as the autoscaler does."""
        count = len(self.workers)
        self.workers.append(self.node.start(self.pods.worker(number=count), self.number + 1 + count))
        return self.workers[-1]

    def wait(self, condition: Callable[[], bool], what: str, seconds: float = START_S) -> None:
        """Wait for a condition. A failure shows the pods' logs."""
        logs = lambda: "\n".join(f"--- {pod.name}\n{pod.tail()}" for pod in (self.head, *self.workers))  # noqa: E731
        wait_until(condition, seconds, of=lambda: f"{what}: {logs()}")

    def request(self, method: str, path: str, token: str | None = "", **arguments: Any) -> httpx.Response:
        """Request the dashboard with the operator's header. `token` replaces the cluster's; None sends none."""
        token = self.token if token == "" else token
        headers = {} if token is None else {"x-ray-authorization": f"Bearer {token}"}
        with self.node.entered():
            url = f"http://{self.head.address}:{DASHBOARD_PORT}{path}"
            return httpx.request(method, url, headers=headers, timeout=30.0, **arguments)

    def deploy(self, config: dict[str, Any]) -> None:
        """Put a Serve config, and wait until all its applications run with their first number of replicas."""
        done = self.request("PUT", "/api/serve/applications/", json=config)
        assert done.status_code == 200, done.text
        wanted = {app["name"]: first_replicas(app) for app in config["applications"]}
        self.wait(lambda: self.replicas() == wanted, f"deployed {wanted}", DEPLOY_S)

    def replicas(self) -> dict[str, int]:
        """Running replicas of each running application."""
        status = self.request("GET", "/api/serve/applications/?api_type=declarative").json()
        applications = status["applications"]
        failed = {name: app["message"] for name, app in applications.items() if app["status"] == "DEPLOY_FAILED"}
        assert not failed, failed
        running = running_replicas(status)
        return {name: len(running[name]) for name, app in applications.items() if app["status"] == "RUNNING"}


def first_replicas(application: dict[str, Any]) -> int:
    serving = application["args"]["serving"]
    return int(serving["replicas"]["min"] if "student" in application["args"] else serving["ingress_replicas"])


class Service:
    """Picks pods for requests as a Service does: ready pods, and a terminating one only if no other is ready."""

    def __init__(self, pods: Sequence[RunningPod]) -> None:
        self._pods = pods
        self._ready = {pod.name: pod.ready() for pod in pods}

    def address(self) -> str:
        """URL for the next request. Raises httpx.ConnectError if no pod is ready, as a Service without endpoints refuses connections."""
        ready = [pod for pod in self._pods if self._ready[pod.name]]
        found = [pod for pod in ready if not pod.terminating] or ready
        if not found:
            raise httpx.ConnectError("no pod is ready")
        return f"http://{random.choice(found).address}:8000"

    def all_ready(self) -> bool:
        return all(self._ready.values())

    @contextmanager
    def probed(self) -> Iterator[Service]:
        """Run the readiness probes in their periods while the block runs."""
        stop = threading.Event()

        def probe(pod: RunningPod) -> None:
            period_s = pod.manifest["spec"]["containers"][0]["readinessProbe"]["periodSeconds"]
            while not stop.wait(period_s):
                self._ready[pod.name] = pod.ready()

        threads = [threading.Thread(target=probe, args=(pod,)) for pod in self._pods]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            stop.set()
            for thread in threads:
                thread.join()


class ServiceLoad(Load):
    """Clients of a Service. Every second one opens a connection for each request; the others keep theirs, as an ingress controller does."""

    def __init__(self, service: Service, node: Node, body: dict[str, Any], clients: int = 4) -> None:
        super().__init__("", body, clients)
        self._service, self._node = service, node
        self._kept = iter(range(clients))

    def _send(self) -> None:
        limits = httpx.Limits(max_keepalive_connections=next(self._kept) % 2)
        with self._node.entered(), httpx.Client(timeout=60.0, limits=limits) as client:
            while not self._stop.is_set():
                try:
                    self.responses.append(client.post(f"{self._service.address()}/v1/predict", json=self._body))
                except httpx.TransportError as error:
                    self.errors.append(error)
                time.sleep(_PAUSE_S)
