"""Containers of a Pod: names, images, ports, mounts; the parts with rules of their own are in the modules beside this one."""

from __future__ import annotations

from tests.k8s.checker import syntax
from tests.k8s.checker.nodes import Node, elements, mapping
from tests.k8s.checker.pods.fields import MAX_INT32, at_least, not_empty, one_of
from tests.k8s.checker.pods.mounts import mount_findings
from tests.k8s.checker.pods.probes import lifecycle_findings, probe_findings
from tests.k8s.checker.pods.resources import resource_findings
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
ESCALATION = rule("pod/escalation", "drop allowPrivilegeEscalation: false, or the privileges")
PROFILE = rule("pod/profile", "set localhostProfile with type Localhost, and only then")


def container_findings(spec: Node, path: str) -> Findings:
    """In: a Pod's spec. Out: what is wrong with its containers and init containers."""
    claims = {str(claim.get("name")) for _, claim in elements(spec, "resourceClaims", path)}
    names: set[str] = set()
    for kind in ("initContainers", "containers"):
        for place, container in elements(spec, kind, path):
            name = str(container.get("name", ""))
            wrong = syntax.dns_label(name)
            if wrong:
                yield NAME.at(f"{place}.name", wrong)
            if name in names:
                yield NAME_TWICE.at(f"{place}.name", f"{name!r} stands in the Pod twice")
            names.add(name)
            if kind == "initContainers":
                yield from _init_findings(container, place)
            yield from _one_container(container, place, spec)
            yield from resource_findings(container, place, claims)
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
    yield from _port_findings(container, path, host_network=spec.get("hostNetwork") is True)
    yield from variable_findings(container, path)
    yield from mount_findings(container, path, spec)
    yield from probe_findings(container, path)
    grace_s = spec.get("terminationGracePeriodSeconds")
    yield from lifecycle_findings(container, path, 30 if grace_s is None else grace_s)
    yield from security_findings(mapping(container, "securityContext"), f"{path}.securityContext")


def _init_findings(container: Node, path: str) -> Findings:
    if container.get("restartPolicy") == "Always":
        return
    for name in ("lifecycle", "livenessProbe", "readinessProbe", "startupProbe"):
        if container.get(name) is not None:
            yield INIT.at(f"{path}.{name}", "set for an init container that ends")


def _port_findings(container: Node, path: str, *, host_network: bool) -> Findings:
    names: set[str] = set()
    for place, port in elements(container, "ports", path):
        number, host = port.get("containerPort", 0), port.get("hostPort") or 0
        if not 1 <= number <= 65535:
            yield PORT.at(f"{place}.containerPort", f"{number}")
        if not 0 <= host <= 65535:
            yield PORT.at(f"{place}.hostPort", f"{host}")
        if host_network and host not in (0, number):
            yield HOST_PORT.at(f"{place}.hostPort", f"{host} for containerPort {number} on the host's network")
        yield from one_of(port, "protocol", ("TCP", "UDP", "SCTP"), place, empty_is_unset=True)
        name = port.get("name")
        if name:
            wrong = syntax.port_name(name)
            if wrong:
                yield PORT_NAME.at(f"{place}.name", wrong)
            elif name in names:
                yield PORT_NAME_TWICE.at(f"{place}.name", f"{name!r} stands in the container twice")
            names.add(name)


def _host_port_findings(spec: Node, path: str) -> Findings:
    seen: set[tuple[object, ...]] = set()
    for place, container in elements(spec, "containers", path):
        for port_place, port in elements(container, "ports", place):
            # On the host's network every port is one of the host's.
            number = port.get("hostPort") or (port.get("containerPort") if spec.get("hostNetwork") is True else None)
            key = (port.get("hostIP", ""), number, port.get("protocol", "TCP"))
            if key[1] and key in seen:
                yield HOST_PORT.at(f"{port_place}.hostPort", f"{key[1]} stands in the Pod twice")
            seen.add(key)


def security_findings(context: Node, path: str) -> Findings:
    """A securityContext, a container's or a Pod's."""
    for name in ("runAsUser", "runAsGroup", "fsGroup"):
        yield from at_least(context, name, 0, path, MAX_INT32)
    for place, group in enumerate(context.get("supplementalGroups") or []):
        yield from at_least({"id": group}, "id", 0, f"{path}.supplementalGroups[{place}]", MAX_INT32)
    yield from one_of(context, "procMount", ("Default", "Unmasked"), path)
    yield from one_of(context, "fsGroupChangePolicy", ("OnRootMismatch", "Always"), path)
    for name in ("seccompProfile", "appArmorProfile"):
        profile = mapping(context, name)
        yield from one_of(profile, "type", ("RuntimeDefault", "Unconfined", "Localhost"), f"{path}.{name}")
        if (profile.get("type") == "Localhost") != bool(profile.get("localhostProfile")):
            yield PROFILE.at(f"{path}.{name}", f"type {profile.get('type')} and localhostProfile do not fit")
    added = mapping(context, "capabilities").get("add") or []
    if context.get("allowPrivilegeEscalation") is False and (
        context.get("privileged") is True or "CAP_SYS_ADMIN" in added
    ):
        what = "privileged" if context.get("privileged") else "CAP_SYS_ADMIN"
        yield ESCALATION.at(f"{path}.allowPrivilegeEscalation", f"false with {what}")
