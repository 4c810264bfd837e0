"""A running endpoint: deployed, waited for, changed while it runs, stopped."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray import serve

from pipelines.config_serving import ServingConfig
from pipelines.errors import StageFailedError, UserError
from serving.app import LOGGING
from serving.deployment import APPLICATION, endpoint_config
from serving.roster import Split

_START_S = 600.0
_POLL_S = 0.1


@dataclass(frozen=True)
class Endpoint:
    """A running endpoint."""

    url: str
    """Without a slash at the end."""
    models: tuple[str, ...]

    def shutdown(self, *, ray_ends: bool = False) -> None:
        """Stop the endpoint, and Serve itself where no other application runs. Requests under way are answered.

        Args:
            ray_ends: this Ray ends next, and Serve with it. (Stopped by itself, Serve reports a failed task that is none.)
        """
        running = set(serve.status().applications)
        ours = {name for name in running if is_ours(name)}
        if running - ours or ray_ends:
            # The ingress first, so that nobody asks a student that has gone.
            for name in sorted(ours, key=lambda name: name != APPLICATION):
                serve.delete(name)
        else:
            serve.shutdown()


def is_ours(application: str) -> bool:
    """Whether a Serve application is a part of an endpoint."""
    return application == APPLICATION or application.startswith(f"{APPLICATION}-student")


def serve_students(students: Mapping[str, str], serving: ServingConfig, split: Split | None = None) -> Endpoint:
    """Start the endpoint on the Ray that this process is connected to, or change the one that runs there; returns when it takes requests.

    Args:
        students: NAME or NAME@VERSION -> student folder or URI.
        split: NAME -> version -> percent.

    Raises:
        UserError: a student cannot be served, or the port is taken. Nothing has been started.
        StageFailedError: the replicas do not start.
    """
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    config = endpoint_config(students, serving, split)
    running = _running()
    if APPLICATION not in running:
        _check_port(serving.host, serving.port)
    serve.start(proxy_location="HeadOnly", http_options=config["http_options"], logging_config=LOGGING)
    # Applications of others stay: a config file names all that there are to be.
    config["applications"] += [application for name, application in running.items() if not is_ours(name)]
    client: Any = _get_global_client()
    client.deploy_apps(ServeDeploySchema.model_validate(config))
    host = "127.0.0.1" if serving.host in {"0.0.0.0", "::"} else serving.host
    endpoint = Endpoint(f"http://{host}:{serving.port}", tuple(students))
    try:
        _wait_for([application["name"] for application in config["applications"]])
    except StageFailedError:
        if APPLICATION not in running:
            endpoint.shutdown()
        raise
    return endpoint


def _running() -> dict[str, dict[str, Any]]:
    """The applications of this Ray's Serve by name, each with the config it was deployed with; {} where Serve does not run."""
    names = serve.status().applications
    if not names:
        return {}
    from ray.serve.context import _get_global_client

    client: Any = _get_global_client()
    details = client.get_serve_details()["applications"]
    return {name: details.get(name, {}).get("deployed_app_config") or {} for name in names}


def _wait_for(applications: list[str]) -> None:
    """Until all of them run. Raises StageFailedError where one cannot, or none moves on."""
    until = time.monotonic() + _START_S
    while True:
        found = serve.status().applications
        states = {name: found[name].status.value if name in found else "NOT_STARTED" for name in applications}
        if set(states.values()) == {"RUNNING"}:
            return
        if failed := [name for name, state in states.items() if state == "DEPLOY_FAILED"]:
            raise StageFailedError(f"the endpoint does not start: {'; '.join(_said(name) for name in failed)}")
        if time.monotonic() > until:
            waiting = ", ".join(f"{name}: {state}" for name, state in states.items() if state != "RUNNING")
            raise StageFailedError(f"the endpoint does not start within {_START_S:g} s ({waiting})")
        time.sleep(_POLL_S)


def _said(application: str) -> str:
    """Why an application is not well: the last line of what it and its deployments say."""
    status = serve.status().applications[application]
    messages = [status.message, *(deployment.message for deployment in status.deployments.values())]
    said = [message.strip().splitlines()[-1] for message in messages if message.strip()]
    return f"{application}: {said[-1] if said else 'no reason given'}"


def _check_port(host: str, port: int) -> None:
    """Raises UserError where the port cannot be listened on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the proxy does: a port that only waits for old connections to expire is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            rule = f"it cannot be listened on ({error.strerror})"
            raise UserError(f"serving.port {port} on {host}", rule, "Set another serving.port.") from error
