"""Containers of a Pod: names, images, ports, mounts; the parts with rules of their own are in the modules beside this one."""

from __future__ import annotations

from tests.k8s.checker import syntax
from tests.k8s.checker.nodes import Node, elements, mapping
from tests.k8s.checker.pods.fields import not_empty, one_of, written
from tests.k8s.checker.pods.mounts import mount_findings
from tests.k8s.checker.pods.probes import lifecycle_findings, probe_findings
from tests.k8s.checker.pods.resources import resize_findings, resource_findings
from tests.k8s.checker.pods.security import container_security_findings
from tests.k8s.checker.pods.systems import container_system_findings
from tests.k8s.checker.pods.variables import variable_findings
from tests.k8s.checker.problem import Findings, rule

NAME = rule("pod/container-name", "name the container with lower-case letters, digits and '-'")
NAME_TWICE = rule("pod/container-name-twice", "name each container of the Pod, init containers included, differently")
IMAGE = rule("pod/image", "name the image without spaces around it")
PORT = rule("pod/port-range", "take a port from 1 to 65535")
PORT_NAME = rule("pod/port-name", "name the port with at most 15 lower-case letters, digits and '-'")
PORT_NAME_TWICE = rule("pod/port-name-twice", "name each port of a container differently")
HOST_PORT = rule("pod/host-port", "leave hostPort out, or make it containerPort on the host's network")
INIT = rule("pod/init-container", "set restartPolicy: Always, or leave probes and lifecycle to the containers")
RESTART_RULES = rule(
    "pod/restart-rules", "set restartPolicy beside at most 20 restartPolicyRules, each with at most 255 exitCodes"
)


def container_findings(spec: Node, path: str) -> Findings:
    """In: a Pod's spec. Out: what is wrong with its containers and init containers."""
    claims = {str(claim.get("name")) for _, claim in elements(spec, "resourceClaims", path)}
    names: set[str] = set()
    for kind in ("initContainers", "containers"):
        for place, container in elements(spec, kind, path):
            name = str(container.get("name", ""))
            yield from written(NAME, container, "name", syntax.dns_label, place, required=True)
            if name in names:
                yield NAME_TWICE.at(f"{place}.name", f"{name!r} stands in the Pod twice")
            names.add(name)
            if kind == "initContainers":
                yield from _init_findings(container, place)
            yield from _one_container(container, place, spec)
            yield from resource_findings(container, place, claims)
            ends = kind == "initContainers" and container.get("restartPolicy") != "Always"
            yield from resize_findings(container, place, restarted=not ends and spec.get("restartPolicy") != "Never")
    yield from _host_port_findings(spec, path)


def _one_container(container: Node, path: str, spec: Node) -> Findings:
    yield from not_empty(container, "image", path)
    image = str(container.get("image", ""))
    if image != image.strip():
        yield IMAGE.at(f"{path}.image", f"{image!r}")
    yield from one_of(container, "imagePullPolicy", ("Always", "IfNotPresent", "Never"), path, empty_is_unset=True)
    yield from one_of(
        container, "terminationMessagePolicy", ("File", "FallbackToLogsOnError"), path, empty_is_unset=True
    )
    yield from one_of(container, "restartPolicy", ("Always", "OnFailure", "Never"), path)
    yield from _restart_findings(container, path)
    yield from _port_findings(container, path)
    yield from variable_findings(container, path, spec)
    yield from mount_findings(container, path, spec)
    yield from probe_findings(container, path)
    grace_s = spec.get("terminationGracePeriodSeconds")
    yield from lifecycle_findings(container, path, 30 if grace_s is None else grace_s)
    yield from container_security_findings(container, path, spec)
    yield from container_system_findings(container, path, spec)


def _init_findings(container: Node, path: str) -> Findings:
    if container.get("restartPolicy") == "Always":
        return
    for name in ("lifecycle", "livenessProbe", "readinessProbe", "startupProbe"):
        if container.get(name) is not None:
            yield INIT.at(f"{path}.{name}", "set for an init container that ends")


def _restart_findings(container: Node, path: str) -> Findings:
    rules = list(elements(container, "restartPolicyRules", path))
    if rules and container.get("restartPolicy") is None:
        yield RESTART_RULES.at(f"{path}.restartPolicy", "not set beside restartPolicyRules")
    if len(rules) > 20:
        yield RESTART_RULES.at(f"{path}.restartPolicyRules", f"{len(rules)} rules")
    for place, entry in rules:
        yield from one_of(entry, "action", ("Restart", "RestartAllContainers"), place, required=True)
        if entry.get("exitCodes") is None:
            yield RESTART_RULES.at(f"{place}.exitCodes", "not set")
            continue
        codes = mapping(entry, "exitCodes")
        yield from one_of(codes, "operator", ("In", "NotIn"), f"{place}.exitCodes", required=True)
        if len(codes.get("values") or []) > 255:
            yield RESTART_RULES.at(f"{place}.exitCodes.values", f"{len(codes['values'])} values")


def _port_findings(container: Node, path: str) -> Findings:
    names: set[str | None] = set()
    for place, port in elements(container, "ports", path):
        number, host = port.get("containerPort") or 0, port.get("hostPort") or 0
        if not 1 <= number <= 65535:
            yield PORT.at(f"{place}.containerPort", f"{number}")
        if not 0 <= host <= 65535:
            yield PORT.at(f"{place}.hostPort", f"{host}")
        yield from one_of(port, "protocol", ("TCP", "UDP", "SCTP"), place, empty_is_unset=True)
        yield from written(PORT_NAME, port, "name", syntax.port_name, place, empty_is_unset=True)
        name = port.get("name")
        if name and name in names:
            yield PORT_NAME_TWICE.at(f"{place}.name", f"{name!r} stands in the container twice")
        names.add(name)


def _host_port_findings(spec: Node, path: str) -> Findings:
    on_host = spec.get("hostNetwork") is True
    containers = list(elements(spec, "containers", path))
    # Init containers run one after the other: each is looked at alone.
    for group in (containers, *([init] for init in elements(spec, "initContainers", path))):
        seen: set[tuple[object, ...]] = set()
        for place, container in group:
            for port_place, port in elements(container, "ports", place):
                number, host = port.get("containerPort"), port.get("hostPort")
                if group is containers and on_host and host and host != number:
                    yield HOST_PORT.at(f"{port_place}.hostPort", f"{host} for containerPort {number} on the host")
                # On the host's network every port is one of the host's.
                host = host or (number if on_host else None)
                key = (port.get("hostIP") or "", host, port.get("protocol") or "TCP")
                if host and key in seen:
                    yield HOST_PORT.at(f"{port_place}.hostPort", f"{host} stands in the Pod twice")
                seen.add(key)
