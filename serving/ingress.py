"""The ingress deployment: HTTP in front, the students' replicas behind. It loads no model and always runs."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

from pipelines.config.serving import ServingConfig
from serving.api.api_keys import KeyRing
from serving.api.key_limits import SharedLimits
from serving.api.middleware import ACCESS_LOG, RequestMiddleware
from serving.api.routes import Api, create_app
from serving.metrics import IngressMetrics
from serving.registry_reader import EndpointStudents, RegistryReader
from serving.replica_client import ReplicaClient
from serving.start_watch import StartWatch
from serving.tracing import ingress_tracer


class Ingress:
    """The class that Serve deploys. Serve sends its students through `reconfigure`."""

    def __init__(self, serving: ServingConfig, counter: Any = None) -> None:
        """
        Args:
            counter: handle of the LimitCounter of all ingress replicas. None: the only replica counts itself.
        """
        self._serving = serving
        self._reader = RegistryReader(serving)
        self._starts = StartWatch(serving, self._reader.set_starting)
        self._tracer = ingress_tracer(serving)
        self._replicas = ReplicaClient(serving, self._tracer)
        self._metrics = IngressMetrics()
        self._keys = KeyRing(serving.keys, None if counter is None else SharedLimits(counter, serving.ingress_replicas))
        if serving.access_log:
            _log_to_stdout(ACCESS_LOG)

    async def reconfigure(self, user_config: Mapping[str, JsonValue]) -> None:
        """Change the students or their shares while requests run; see EndpointStudents."""
        endpoint = EndpointStudents.model_validate(user_config)
        starting = await self._starts.starting(endpoint.students)
        await self._reader.load(endpoint, starting)
        self._starts.follow(endpoint.students, starting)
        self._replicas.reset()

    def unavailable(self) -> dict[str, str]:
        """Students that this replica cannot read or run, with the reasons. The process that deploys the endpoint calls it."""
        return dict(self._reader.registry.unavailable)

    def open_requests(self) -> dict[str, int]:
        """Requests that wait for, or are with, the replicas of each student. The process that changes the endpoint calls it."""
        return dict(+self._replicas.open_requests)

    def __serve_build_asgi_app__(self) -> RequestMiddleware:
        """Serve calls it for the HTTP application; see `serve.ingress`."""
        api = Api(
            lambda: self._reader.registry, self._replicas, self._starts.any_can_answer, self._serving, self._keys, self._metrics
        )  # fmt: skip
        return create_app(api, tracer=self._tracer)


def _log_to_stdout(name: str) -> None:
    """Log plain lines to stdout, which Ray writes to its log folder and Kubernetes' collectors read."""
    logger = logging.getLogger(name)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
