"""Starts an endpoint, changes it while it runs, and stops it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import serve
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

from pipelines.config.serving import ServingConfig
from pipelines.errors import StageFailedError
from pipelines.runtime.compat.ray import delete_applications, serve_controller
from serving.app import LOGGING
from serving.deploy.address import check_running_proxy, check_tls
from serving.deploy.phases import gone_students, is_ours, phases, restored
from serving.deploy.port import check_port
from serving.deploy.readiness import wait_until_answered, wait_until_ended, wait_until_running
from serving.deploy.serve_config import APPLICATION, as_document, endpoint_config
from serving.registry import TrafficSplit

_END_S = 30.0
"""For an application to end after its last response."""


@dataclass(frozen=True)
class Endpoint:
    """A running endpoint."""

    url: str
    """Without a slash at the end."""
    models: tuple[str, ...]
    drain_s: float = ServingConfig().request_timeout_s + _END_S
    """Time limit for all its applications to end."""

    def shutdown(self, *, ray_ends: bool = False) -> None:
        """Stop the endpoint, and Serve too if nothing else runs on it. Requests that have started are answered.

        Args:
            ray_ends: this Ray ends next, and Serve with it. (If Serve stops by itself, it reports a failed task although none failed.)
        """
        ours = {name for name in serve.status().applications if is_ours(name)}
        # Applications first, even if Serve stops too: that kills its proxies with their requests. The ingress before the students, so
        # that it calls no student that has ended.
        deadline = time.monotonic() + self.drain_s
        for part in (ours & {APPLICATION}, ours - {APPLICATION}):
            delete_applications(part)
            wait_until_ended(part, deadline)
        # Read again: another application may have started in the meantime.
        if not ray_ends and set(serve.status().applications) <= ours:
            serve.shutdown()

    def discard(self) -> None:
        """Stop an endpoint that has taken no request yet, without waiting for its end."""
        ours = {name for name in serve.status().applications if is_ours(name)}
        if ours == set(serve.status().applications):
            serve.shutdown()
        else:
            delete_applications(ours)
            serve.status()  # its reply shows that the controller has read the call before it, even if this process exits now


def serve_students(
    students: Mapping[str, str], serving: ServingConfig, split: TrafficSplit | None = None, *, ray_ends: bool = False
) -> Endpoint:
    """Start the endpoint on the connected Ray, or change the one that runs there. Returns when it takes requests.

    A change that fails or is interrupted leaves the endpoint as it was.

    Args:
        students: NAME or NAME@VERSION -> student folder or URI.
        split: NAME -> version -> percent.
        ray_ends: this Ray ends if the start fails, and Serve with it, which by itself takes up to half a minute.

    Raises:
        UserError: a student cannot be served, the port is taken, or Serve already listens elsewhere. Nothing has started then.
        StageFailedError: the replicas do not start.
    """
    config = endpoint_config(students, serving, split)
    controller = _controller(config, serving)
    running = _deployed(controller)
    gone = gone_students(running)
    host = "127.0.0.1" if serving.host in {"0.0.0.0", "::"} else serving.host
    host = f"[{host}]" if ":" in host else host
    scheme = "http" if serving.tls is None else "https"
    endpoint = Endpoint(f"{scheme}://{host}:{serving.port}", tuple(students), serving.request_timeout_s + _END_S)
    try:
        for phase in phases(running, config.applications, gone):
            _deploy(controller, config, phase.applications)
            wait_until_running(phase.waits)
            wait_until_answered(phase.ends, time.monotonic() + serving.request_timeout_s)
    except BaseException as error:  # also Ctrl-C
        if APPLICATION not in running:
            if not ray_ends:
                endpoint.discard()
            raise
        _deploy(controller, config, restored(running, config.applications, gone))
        if not isinstance(error, StageFailedError):
            raise
        lost = f", without {', '.join(sorted(gone))}: their folders no longer hold them" if gone else ""
        raise StageFailedError(f"{error}; the endpoint runs as before, with its old shares{lost}") from error
    return endpoint


def _controller(config: ServeDeploySchema, serving: ServingConfig) -> Any:
    """The controller of the running Serve, or of a new one. Raises UserError if the endpoint's address is not free."""
    controller = serve_controller() if ray.is_initialized() else None
    if controller is not None:
        check_running_proxy(controller.http_config, serving)
        return controller
    check_tls(serving.tls)
    check_port(serving.host, serving.port)
    serve.start(proxy_location="HeadOnly", http_options=as_document(config)["http_options"], logging_config=LOGGING)
    controller = serve_controller()
    assert controller is not None
    return controller


def _deployed(controller: Any) -> dict[str, ServeApplicationSchema]:
    """The applications that config files have deployed, by name. Those of `serve.run` have no config, and no config file changes them."""
    applications = controller.get_serve_details()["applications"]
    return {
        name: ServeApplicationSchema.model_validate(details["deployed_app_config"])
        for name, details in applications.items()
        if details.get("deployed_app_config")
    }


def _deploy(controller: Any, config: ServeDeploySchema, applications: Sequence[ServeApplicationSchema]) -> None:
    """Make Serve run these applications. It ends others that a config file has deployed."""
    controller.deploy_apps(
        ServeDeploySchema.model_validate({**as_document(config), "applications": list(applications)})
    )
