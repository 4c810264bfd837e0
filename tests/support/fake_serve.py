"""Ray Serve without Ray: a controller that records, applications that end, an ingress that replies."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

from serving.deploy import readiness, rollout

Reply = dict[str, str] | Exception


class FakeController:
    """Records which applications Serve is to run."""

    def __init__(self, *running: ServeApplicationSchema, without_config: str | None = None) -> None:
        self.details: dict[str, Any] = {
            application.name: {"deployed_app_config": application.model_dump(exclude_unset=True)}
            for application in running
        }
        if without_config:
            self.details[without_config] = {"deployed_app_config": None}
        self.deployed: list[list[str]] = []
        self.http_config = SimpleNamespace(host="127.0.0.1", port=8000, request_timeout_s=125.0)

    def get_serve_details(self) -> dict[str, Any]:
        return {"applications": self.details}

    def deploy_apps(self, config: ServeDeploySchema) -> None:
        self.deployed.append([application.name for application in config.applications])


class EndingServe:
    """Applications that end after a number of status calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, after: int, *names: str) -> None:
        self.left, self.after, self.calls = dict.fromkeys(names, 0), after, list[list[str]]()
        self._deleted: set[str] = set()
        monkeypatch.setattr(rollout.serve, "status", self.status)
        monkeypatch.setattr(rollout.serve, "shutdown", lambda: self.calls.append(["all of Serve"]))
        monkeypatch.setattr(rollout, "delete_applications", self.delete)
        monkeypatch.setattr(readiness, "_POLL_S", 0.0)

    def status(self) -> Any:
        for name in self._deleted & set(self.left):
            self.left[name] += 1
        self.left = {name: count for name, count in self.left.items() if count < self.after}
        return SimpleNamespace(applications=dict.fromkeys(self.left))

    def delete(self, names: set[str]) -> None:
        self.calls.append(sorted(names))
        self._deleted |= names


def ingress_replies(
    monkeypatch: pytest.MonkeyPatch, *replies: Sequence[Reply] | Exception, wait_s: float = 0.0
) -> None:
    """A running ingress whose replicas reply with the students that they cannot read."""
    status = SimpleNamespace(applications={"raystill": SimpleNamespace(status=SimpleNamespace(value="RUNNING"))})
    remaining = list(replies)

    def results(**_: Any) -> Sequence[Reply]:
        reply = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        if isinstance(reply, Exception):
            raise reply
        return reply

    def broadcast(method: str) -> Any:
        assert method == "unavailable"
        return SimpleNamespace(results=results)

    monkeypatch.setattr(rollout.serve, "status", lambda: status)
    monkeypatch.setattr(rollout.serve, "get_deployment_handle", lambda *_: SimpleNamespace(broadcast=broadcast))
    monkeypatch.setattr(readiness, "READ_AGAIN_S", wait_s)
    monkeypatch.setattr(readiness, "_INGRESS_POLL_S", 0.01)
