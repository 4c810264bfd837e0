"""Waits until applications run or have ended, and reports why one does not."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from pipelines.errors import StageFailedError, last_line
from pipelines.runtime.terminal import say
from serving.deploy.serve_config import APPLICATION, INGRESS
from serving.registry import READ_AGAIN_S

_START_S = 600.0
_POLL_S = 0.1
_BROADCAST_S = 10.0
_INGRESS_POLL_S = 1.0


def wait_until_running(applications: Sequence[str]) -> None:
    """Raises StageFailedError if one of them fails to deploy, or does not run after ten minutes."""
    deadline = time.monotonic() + _START_S
    while True:
        found = serve.status().applications
        states = {name: found[name].status.value if name in found else "NOT_STARTED" for name in applications}
        if set(states.values()) == {"RUNNING"}:
            if APPLICATION in applications:
                _check_ingress()
            return
        if failed := [name for name, state in states.items() if state == "DEPLOY_FAILED"]:
            reasons = "; ".join(_failure(name) for name in failed)
            raise StageFailedError(f"the endpoint does not start: {reasons}")
        if time.monotonic() > deadline:
            waiting = ", ".join(f"{name}: {state}" for name, state in states.items() if state != "RUNNING")
            remedy = "New students start beside the old ones: make room for both, or end the endpoint first"
            raise StageFailedError(f"the endpoint does not start within {_START_S:g} s ({waiting}). {remedy}")
        time.sleep(_POLL_S)


def wait_until_ended(applications: Collection[str], deadline: float) -> None:
    """Wait until all have ended or the monotonic clock reaches the deadline. Applications that still run then are printed."""
    while left := set(applications) & set(serve.status().applications):
        if time.monotonic() > deadline:
            say(f"serve: {', '.join(sorted(left))} did not end in time")
            return
        time.sleep(_POLL_S)


def wait_until_answered(students: Collection[str], deadline: float) -> None:
    """Wait until no ingress replica holds requests for these students, or the monotonic clock reaches the deadline.

    The ingress must run without them, so that no further requests arrive.
    """
    while students and time.monotonic() < deadline:
        replies = _broadcast("open_requests")
        if not any(set(students) & set(reply) for reply in replies if isinstance(reply, dict)):
            return
        time.sleep(_POLL_S)


def _broadcast(method: str) -> Sequence[Any]:
    """The replies of all ingress replicas; an exception for one that does not answer."""
    try:
        ingress = serve.get_deployment_handle(INGRESS, APPLICATION)
        replies: Sequence[Any] = ingress.broadcast(method).results(timeout_s=_BROADCAST_S, return_exceptions=True)
    except (TimeoutError, RayError, RayServeException) as error:
        return [error]
    return replies


def _check_ingress() -> None:
    """Raises StageFailedError if an ingress replica cannot read a student's folder, which its node may see differently than this one.

    The ingress tries again by itself, so a second attempt that succeeds is no failure.
    """
    deadline = time.monotonic() + 2 * READ_AGAIN_S
    while (problem := _ingress_problem()) is not None:
        if time.monotonic() > deadline:
            raise StageFailedError(f"the endpoint does not start: its ingress {problem}")
        time.sleep(_INGRESS_POLL_S)


def _ingress_problem() -> str | None:
    """The problem of the ingress' replicas; None if all of them can read all students."""
    reasons: dict[str, str] = {}
    errors = []
    for reply in _broadcast("unavailable"):
        if isinstance(reply, Exception):
            errors.append(reply)
        else:
            reasons |= reply
    if reasons:
        return f"cannot read {'; '.join(reasons.values())}"
    # A replica that is late is busy with requests; its log has the same reasons.
    broken = [error for error in errors if not isinstance(error, TimeoutError)]
    return f"does not answer ({last_line(broken[0])})" if broken else None


def _failure(application: str) -> str:
    """Why an application failed: the last line of its own and its deployments' messages."""
    status = serve.status().applications[application]
    messages = [status.message, *(deployment.message for deployment in status.deployments.values())]
    lines = [message.strip().splitlines()[-1].strip() for message in messages if message.strip()]
    return f"{application}: {lines[-1] if lines else 'no reason given'}"
