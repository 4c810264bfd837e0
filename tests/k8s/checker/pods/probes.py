"""Probes and lifecycle hooks: one handler each, and times that make sense."""

from __future__ import annotations

from typing import Any

from tests.k8s.checker import syntax
from tests.k8s.checker.nodes import Node, elements, mapping
from tests.k8s.checker.pods.fields import at_least, exactly_one, not_empty, one_of
from tests.k8s.checker.problem import Findings, rule

HANDLER = rule("pod/handler", "set exactly one handler")
COMMAND = rule("pod/command", "give exec a command")
PORT = rule("pod/handler-port", "name a port of the container, or take 1 to 65535")
SUCCESS = rule("pod/success-threshold", "set successThreshold: 1: other values belong to readiness probes")
GRACE = rule("pod/readiness-grace", "drop terminationGracePeriodSeconds: a readiness probe ends nothing")
HEADER = rule("pod/http-header", "name the header with letters, digits and '-'")
SLEEP = rule("pod/sleep", "sleep at most as long as terminationGracePeriodSeconds")

_TIMES = ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold")


def probe_findings(container: Node, path: str) -> Findings:
    """In: a container. Out: what is wrong with its three probes. Zero stands for the default of a time."""
    for kind in ("livenessProbe", "readinessProbe", "startupProbe"):
        if container.get(kind) is None:
            continue
        probe, at = mapping(container, kind), f"{path}.{kind}"
        yield from handler_findings(probe, ("exec", "httpGet", "tcpSocket", "grpc"), at)
        for name in _TIMES:
            yield from at_least(probe, name, 0, at)
        if kind != "readinessProbe" and (probe.get("successThreshold") or 1) != 1:
            yield SUCCESS.at(f"{at}.successThreshold", f"{probe['successThreshold']}")
        if kind == "readinessProbe" and probe.get("terminationGracePeriodSeconds") is not None:
            yield GRACE.at(f"{at}.terminationGracePeriodSeconds", "set")
        elif kind != "readinessProbe":
            yield from at_least(probe, "terminationGracePeriodSeconds", 1, at)


def lifecycle_findings(container: Node, path: str, grace_s: int) -> Findings:
    """In: a container and the Pod's grace period. Out: what is wrong with postStart and preStop."""
    for kind in ("postStart", "preStop"):
        hook = mapping(container, f"lifecycle.{kind}")
        at = f"{path}.lifecycle.{kind}"
        if mapping(container, "lifecycle").get(kind) is not None:
            yield from handler_findings(hook, ("exec", "httpGet", "tcpSocket", "sleep"), at)
        seconds = mapping(hook, "sleep").get("seconds")
        if seconds is not None and not 0 <= seconds <= grace_s:
            yield SLEEP.at(f"{at}.sleep.seconds", f"{seconds}, and the grace period is {grace_s}")


def handler_findings(node: Node, kinds: tuple[str, ...], path: str) -> Findings:
    """Exactly one handler, and its own fields."""
    yield from exactly_one(HANDLER, node, kinds, path)
    if node.get("exec") is not None and not mapping(node, "exec").get("command"):
        yield COMMAND.at(f"{path}.exec.command", "empty")
    for kind in ("httpGet", "tcpSocket", "grpc"):
        if node.get(kind) is not None:
            yield from _port_findings(mapping(node, kind).get("port"), f"{path}.{kind}.port")
    if node.get("httpGet") is not None:
        http = mapping(node, "httpGet")
        yield from one_of(http, "scheme", ("HTTP", "HTTPS"), f"{path}.httpGet", empty_is_unset=True)
        for place, header in elements(http, "httpHeaders", f"{path}.httpGet"):
            yield from not_empty(header, "name", place)
            name = str(header.get("name"))
            if not all(character.isascii() and (character.isalnum() or character == "-") for character in name):
                yield HEADER.at(f"{place}.name", f"{name!r}")


def _port_findings(port: Any, path: str) -> Findings:
    if isinstance(port, str):
        wrong = syntax.port_name(port)
    else:
        wrong = None if isinstance(port, int) and 1 <= port <= 65535 else f"{port} is outside 1 to 65535"
    if wrong:
        yield PORT.at(path, wrong)
