"""A running endpoint: deployed, waited for, changed while it runs, stopped."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from pipelines.config.serving import ServingConfig
from pipelines.errors import StageFailedError, UserError, last_line
from pipelines.runtime.compat.ray import ServeController, delete_applications, serve_controller
from serving.app import LOGGING
from serving.deploy.serve_config import APPLICATION, INGRESS, PROXY_GRACE_S, endpoint_config
from serving.ingress import SHARED
from serving.model_card import read_card
from serving.registry import READ_AGAIN_S, TrafficSplit

_START_S = 600.0
_POLL_S = 0.1
_SAY_S = 10.0
"""For the ingress to say what it could not read."""
_ASK_AGAIN_S = 1.0
_ENDS_S = 30.0
"""For an application to go when its requests have been answered."""


@dataclass(frozen=True)
class Endpoint:
    """A running endpoint."""

    url: str
    """Without a slash at the end."""
    models: tuple[str, ...]
    drain_s: float = ServingConfig().request_timeout_s + _ENDS_S
    """How long its applications may take to end, all together."""

    def shutdown(self, *, ray_ends: bool = False) -> None:
        """Stop the endpoint, and Serve itself where no other application runs. Requests under way are answered.

        Args:
            ray_ends: this Ray ends next, and Serve with it. (Stopped by itself, Serve reports a failed task that is none.)
        """
        ours = {name for name in serve.status().applications if is_ours(name)}
        # Also where Serve ends as a whole: that kills its proxies with what is under way in them. The ingress first, so that nobody asks
        # a student that has gone.
        until = time.monotonic() + self.drain_s
        for part in (ours & {APPLICATION}, ours - {APPLICATION}):
            delete_applications(part)
            _wait_for_the_end(part, until)
        # Looked at anew: while these have drained, somebody may have started another application.
        if not ray_ends and set(serve.status().applications) <= ours:
            serve.shutdown()

    def drop(self) -> None:
        """Stop what has not taken a request yet: nobody waits for it."""
        ours = {name for name in serve.status().applications if is_ours(name)}
        if ours == set(serve.status().applications):
            serve.shutdown()
        else:
            delete_applications(ours)
            serve.status()  # an answer of the controller: it has read what stands before it, also where this process ends now


def is_ours(application: str) -> bool:
    """Whether a Serve application is a part of an endpoint."""
    return application == APPLICATION or application.startswith(f"{APPLICATION}-student")


def serve_students(students: Mapping[str, str], serving: ServingConfig, split: TrafficSplit | None = None) -> Endpoint:
    """Start the endpoint on the Ray that this process is connected to, or change the one that runs there; returns when it takes requests.

    A change that cannot be made, or that is interrupted, leaves the endpoint as it was.

    Args:
        students: NAME or NAME@VERSION -> student folder or URI.
        split: NAME -> version -> percent.

    Raises:
        UserError: a student cannot be served, the port is taken, or Serve runs already and listens elsewhere. Nothing has been started.
        StageFailedError: the replicas do not start.
    """
    config = endpoint_config(students, serving, split)
    client = serve_controller() if ray.is_initialized() else None
    if client is None:
        check_port(serving.host, serving.port)
        serve.start(proxy_location="HeadOnly", http_options=config["http_options"], logging_config=LOGGING)
        client = serve_controller()
        assert client
    else:
        check_http(client.http_config, serving)
    running = _deployed(client)
    gone = gone_students(running)
    host = "127.0.0.1" if serving.host in {"0.0.0.0", "::"} else serving.host
    endpoint = Endpoint(f"http://{host}:{serving.port}", tuple(students), serving.request_timeout_s + _ENDS_S)
    try:
        for phase in phases(running, config["applications"], gone):
            _apply(client, config, phase.applications)
            _wait_for(phase.waits)
    except BaseException as error:  # also Ctrl-C
        if APPLICATION not in running:
            endpoint.drop()
            raise
        _apply(client, config, before(running, config["applications"], gone))
        if not isinstance(error, StageFailedError):
            raise
        but = f", but {', '.join(sorted(gone))}: their folders do not hold them any more" if gone else ""
        raise StageFailedError(f"{error}; what ran before goes on, with the shares it had{but}") from error
    return endpoint


@dataclass(frozen=True)
class Phase:
    """A part of a change."""

    applications: list[dict[str, Any]]
    """All that there are to be."""
    waits: list[str]
    """Those of them that must run before the next part."""


def phases(running: Mapping[str, Any], wanted: Sequence[dict[str, Any]], gone: Collection[str] = ()) -> list[Phase]:
    """What Serve is told, one after the other, each when the one before runs: the ingress sends nothing to a student that has not started
    or has gone already.

    Args:
        running: the applications that there are by name, those of others too, which stay.
        wanted: the applications of the endpoint that is to be.
        gone: students that their folders do not hold any more, and that nothing could start.
    """
    others = {name: application for name, application in running.items() if not is_ours(name)}
    last = {application["name"]: application for application in wanted}
    if APPLICATION not in running:
        return [Phase([*last.values(), *others.values()], list(last))]
    # New students beside the old ones, and an ingress that does not know them yet.
    both = {**running, **last, APPLICATION: running[APPLICATION]}
    if SHARED in running and SHARED in last:
        both[SHARED] = _together(_without(running[SHARED], gone), last[SHARED])
    told = {**both, APPLICATION: last[APPLICATION]}
    end = {**others, **last}
    # Whether the old ingress is well is no matter: it may be what the change is to mend.
    started = Phase(list(both.values()), [name for name in last if name != APPLICATION])
    counted = Phase(list(told.values()), [APPLICATION])
    return [started, counted, *([Phase(list(end.values()), list(last))] if end != told else [])]


def before(
    running: Mapping[str, Any], wanted: Sequence[dict[str, Any]], gone: Collection[str] = ()
) -> list[dict[str, Any]]:
    """What ran before a change that failed, as far as it can be started: a student that its folder does not hold any more stays as the
    change has it, or away. Arguments as of `phases`."""
    last = {application["name"]: application for application in wanted}
    return [
        last.get(name, application)
        if application.get("args", {}).get("student") in gone
        else _without(application, gone)
        for name, application in running.items()
    ]


def gone_students(running: Mapping[str, Any]) -> set[str]:
    """Ids of students that run, and that their folders do not hold any more."""
    gone = set()
    for args in (application["args"] for name, application in running.items() if is_ours(name) and name != APPLICATION):
        students = args["students"] if "students" in args else {args["student"]: args["folder"]}
        for student_id, folder in students.items():
            fingerprint = args.get("fingerprints", {}).get(student_id) or args.get("fingerprint")
            try:
                read_card(student_id, folder, task_code=True, fingerprint=fingerprint)
            except UserError:
                gone.add(student_id)
    return gone


def _without(application: Mapping[str, Any], gone: Collection[str]) -> dict[str, Any]:
    """The application of students that share replicas without some of them; another one as it is."""
    args = application.get("args", {})
    if "students" not in args:
        return dict(application)
    kept = {key: {i: v for i, v in args.get(key, {}).items() if i not in gone} for key in ("students", "fingerprints")}
    return {**application, "args": {**args, **kept}}


def _together(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The new application of students that share replicas, with the old one's students too."""
    kept = {key: {**old["args"].get(key, {}), **new["args"][key]} for key in ("students", "fingerprints")}
    return {**new, "args": {**new["args"], **kept}}


def check_http(found: Any, serving: ServingConfig) -> None:
    """Serve takes no other address while it runs. Raises UserError where it does not listen as the settings say.

    Args:
        found: Serve's HTTPOptions.
    """
    limit_s = found.request_timeout_s
    remedy = "Set it to that, or end Serve first: `serve shutdown`."
    for key, has, wants in (("host", found.host, serving.host), ("port", found.port, serving.port)):
        if has != wants:
            raise UserError(f"serving.{key} {wants}", f"Serve runs on this Ray already, with {key} {has}", remedy)
    # A lower limit is the ingress' own to keep.
    if limit_s is not None and limit_s < serving.request_timeout_s + PROXY_GRACE_S:
        rule = f"Serve runs on this Ray already, and its proxy ends requests after {limit_s:g} s"
        remedy = f"Set at most {limit_s - PROXY_GRACE_S:g}, or end Serve first: `serve shutdown`."
        raise UserError(f"serving.request_timeout_s {serving.request_timeout_s:g}", rule, remedy)


def _apply(client: ServeController, config: Mapping[str, Any], applications: Sequence[Mapping[str, Any]]) -> None:
    """Tell Serve which applications there are to be: those that a config file deployed and that are not named go."""
    from ray.serve.schema import ServeDeploySchema

    client.deploy_apps(ServeDeploySchema.model_validate({**config, "applications": list(applications)}))


def _deployed(client: ServeController) -> dict[str, dict[str, Any]]:
    """The applications that config files have deployed, by name, with their configs. Those of `serve.run` have none, and no config file
    changes them."""
    details = client.get_serve_details()["applications"]
    configs = {name: application.get("deployed_app_config") for name, application in details.items()}
    return {name: config for name, config in configs.items() if config}


def _wait_for_the_end(applications: Collection[str], until: float) -> None:
    """Until all have gone, and to that moment of the monotonic clock at the most; what has not gone by then is told of."""
    while left := set(applications) & set(serve.status().applications):
        if time.monotonic() > until:
            print(f"serve: {', '.join(sorted(left))} has not ended in time", file=sys.stderr, flush=True)
            return
        time.sleep(_POLL_S)


def _wait_for(applications: list[str]) -> None:
    """Until all of them run. Raises StageFailedError where one cannot, or none moves on."""
    until = time.monotonic() + _START_S
    while True:
        found = serve.status().applications
        states = {name: found[name].status.value if name in found else "NOT_STARTED" for name in applications}
        if set(states.values()) == {"RUNNING"}:
            if APPLICATION in applications:
                _check_read()
            return
        if failed := [name for name, state in states.items() if state == "DEPLOY_FAILED"]:
            raise StageFailedError(f"the endpoint does not start: {'; '.join(_said(name) for name in failed)}")
        if time.monotonic() > until:
            waiting = ", ".join(f"{name}: {state}" for name, state in states.items() if state != "RUNNING")
            room = "new students start beside the old ones: make room for both, or end the endpoint first"
            raise StageFailedError(f"the endpoint does not start within {_START_S:g} s ({waiting}); {room}")
        time.sleep(_POLL_S)


def _check_read() -> None:
    """Raises StageFailedError where a replica of the ingress, on its own node, cannot read the folder of a student, which this process
    could. The ingress tries again by itself: what a second try mends is no failure."""
    until = time.monotonic() + 2 * READ_AGAIN_S
    while (why := _unread()) is not None:
        if time.monotonic() > until:
            raise StageFailedError(f"the endpoint does not start: its ingress {why}")
        time.sleep(_ASK_AGAIN_S)


def _unread() -> str | None:
    """What is wrong with the replicas of the ingress, each of which is asked; None where all can read all students."""
    try:
        ingress = serve.get_deployment_handle(INGRESS, APPLICATION)
        said = ingress.broadcast("away").results(timeout_s=_SAY_S, return_exceptions=True)
    except (TimeoutError, RayError, RayServeException) as error:
        said = [error]
    away: dict[str, str] = {}
    for one in said:
        if not isinstance(one, Exception):
            away |= one
    if away:
        return f"cannot read {'; '.join(away.values())}"
    # One that is late is busy with requests; its log says the same.
    failed = [one for one in said if isinstance(one, Exception) and not isinstance(one, TimeoutError)]
    return f"does not answer ({last_line(failed[0])})" if failed else None


def _said(application: str) -> str:
    """Why an application is not well: the last line of what it and its deployments say."""
    status = serve.status().applications[application]
    messages = [status.message, *(deployment.message for deployment in status.deployments.values())]
    said = [message.strip().splitlines()[-1] for message in messages if message.strip()]
    return f"{application}: {said[-1] if said else 'no reason given'}"


def check_port(host: str, port: int) -> None:
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
