"""Services, claims, access rights, network policies and configuration beyond their schemas."""

from __future__ import annotations

import base64
import ipaddress
import re
from typing import Any

from tests.k8s.checker import syntax
from tests.k8s.checker.core.workloads import choice, choice_of, selector_findings
from tests.k8s.checker.nodes import Node, elements, get, mapping
from tests.k8s.checker.pods.selectors import label_map_findings
from tests.k8s.checker.problem import Findings, rule
from tests.k8s.checker.quantities import quantity

PORT = rule("apiserver/port", "take 1 to 65535, or the name of a container's port")
PORTS = rule(
    "apiserver/service-ports", "give a Service ports, named and different from one another where there are several"
)
SERVICE = rule(
    "apiserver/service", "set externalName with type ExternalName only, and clusterIP None only inside the cluster"
)
MODES = rule("apiserver/access-modes", "take ReadWriteOnce, ReadOnlyMany, ReadWriteMany, or ReadWriteOncePod alone")
STORAGE = rule("apiserver/storage-request", "set spec.resources.requests.storage above 0")
ACCESS = rule("apiserver/access-rule", "give a rule verbs, and resources together with apiGroups")
SUBJECT = rule(
    "apiserver/subject", "name kind, name, and for a ServiceAccount the namespace; users and groups have an apiGroup"
)
PEER = rule("apiserver/network-peer", "describe a peer by ipBlock or by selectors, and write CIDRs as 10.0.0.0/8")
KEY = rule("apiserver/data-key", "write keys with letters, digits, '-', '_' and '.', once in data and binaryData")
BASE64 = rule("apiserver/base64", "encode data in base64, or use stringData")

_MODES = ("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod")
_SERVICE_TYPES = ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")


def service_findings(item: Node) -> Findings:
    """A Service: ports, and fields that belong to one type."""
    spec = mapping(item, "spec")
    kind = spec.get("type") or "ClusterIP"
    yield from choice(spec, "type", _SERVICE_TYPES, "spec")
    ports = list(elements(spec, "ports", "spec"))
    headless = spec.get("clusterIP") == "None"
    if not ports and not headless and kind != "ExternalName":
        yield PORTS.at("spec.ports", "none")
    if (kind == "ExternalName") != bool(spec.get("externalName")) or (
        headless and kind not in ("ClusterIP", "ExternalName")
    ):
        yield SERVICE.at(
            "spec.type", f"{kind} with externalName {spec.get('externalName')} and clusterIP {spec.get('clusterIP')}"
        )
    names: set[str] = set()
    numbers: set[tuple[object, object]] = set()
    for path, port in ports:
        name, number = str(port.get("name") or ""), (port.get("port"), port.get("protocol") or "TCP")
        if (not name and len(ports) > 1) or (name and syntax.dns_label(name)) or name in names or number in numbers:
            yield PORTS.at(path, f"name {name!r}, number {number[0]} {number[1]}")
        names.add(name)
        numbers.add(number)
        yield from port_findings(port.get("port"), f"{path}.port", numbers_only=True)
        if port.get("targetPort") is not None:
            yield from port_findings(port["targetPort"], f"{path}.targetPort")
        yield from choice(port, "protocol", ("TCP", "UDP", "SCTP"), path)
    for finding in label_map_findings(mapping(spec, "selector"), "spec.selector"):
        yield SERVICE.at(finding.path, finding.wrong)


def port_findings(port: Any, path: str, *, numbers_only: bool = False) -> Findings:
    """A port's number or name."""
    if isinstance(port, str) and not numbers_only:
        wrong = syntax.port_name(port)
    else:
        wrong = None if isinstance(port, int) and 1 <= port <= 65535 else f"{port!r}"
    if wrong:
        yield PORT.at(path, wrong)


def claim_findings(item: Node) -> Findings:
    """A PersistentVolumeClaim."""
    yield from claim_spec_findings(mapping(item, "spec"), "spec")


def claim_spec_findings(spec: Node, path: str) -> Findings:
    """A claim's spec, also in a StatefulSet's volumeClaimTemplates."""
    modes = spec.get("accessModes") or []
    unknown = [mode for mode in modes if mode not in _MODES]
    if not modes or unknown or ("ReadWriteOncePod" in modes and len(modes) > 1):
        yield MODES.at(f"{path}.accessModes", f"{modes or 'none'}")
    size = quantity(mapping(spec, "resources.requests").get("storage"))
    if size is None or size <= 0:
        yield STORAGE.at(
            f"{path}.resources.requests.storage", f"{mapping(spec, 'resources.requests').get('storage')!r}"
        )
    yield from choice(spec, "volumeMode", ("Filesystem", "Block"), path)


def role_findings(item: Node) -> Findings:
    """A Role or ClusterRole."""
    for path, entry in elements(item, "rules"):
        urls = bool(entry.get("nonResourceURLs"))
        if not entry.get("verbs"):
            yield ACCESS.at(f"{path}.verbs", "none")
        if urls and item.get("kind") == "Role":
            yield ACCESS.at(f"{path}.nonResourceURLs", "set in a Role")
        if not urls and not (entry.get("apiGroups") and entry.get("resources")):
            yield ACCESS.at(path, "without apiGroups or resources")


def binding_findings(item: Node) -> Findings:
    """A RoleBinding or ClusterRoleBinding."""
    if not get(item, "roleRef.name"):
        yield SUBJECT.at("roleRef.name", "empty")
    kinds = ("Role", "ClusterRole") if item.get("kind") == "RoleBinding" else ("ClusterRole",)
    yield from choice(mapping(item, "roleRef"), "kind", kinds, "roleRef")
    for path, subject in elements(item, "subjects"):
        kind, group = subject.get("kind"), subject.get("apiGroup") or ""
        account = kind == "ServiceAccount"
        known = kind in ("ServiceAccount", "User", "Group") and bool(subject.get("name"))
        # An unset group of a user is defaulted, one of a service account is the core group; its namespace may be the RoleBinding's.
        placed = bool(subject.get("namespace")) or item.get("kind") == "RoleBinding"
        fits = (group == "" and placed) if account else group in ("", "rbac.authorization.k8s.io")
        if not known or not fits:
            yield SUBJECT.at(
                path, f"{kind} {subject.get('name')} in namespace {subject.get('namespace')} of group {group!r}"
            )


def network_findings(item: Node) -> Findings:
    """A NetworkPolicy."""
    spec = mapping(item, "spec")
    yield from selector_findings(spec.get("podSelector"), "spec.podSelector")
    for index, kind in enumerate(spec.get("policyTypes") or []):
        yield from choice_of(kind, ("Ingress", "Egress"), f"spec.policyTypes[{index}]")
    for direction, side in (("ingress", "from"), ("egress", "to")):
        for path, entry in elements(spec, direction, "spec"):
            for place, peer in elements(entry, side, path):
                yield from _peer_findings(peer, place)
            for place, port in elements(entry, "ports", path):
                yield from choice(port, "protocol", ("TCP", "UDP", "SCTP"), place)
                number, end = port.get("port"), port.get("endPort")
                if number is not None:
                    yield from port_findings(number, f"{place}.port")
                if end is not None and (not isinstance(number, int) or not number <= end <= 65535):
                    yield PORT.at(f"{place}.endPort", f"{end} with port {number}")


def _peer_findings(peer: Node, path: str) -> Findings:
    selectors = [name for name in ("podSelector", "namespaceSelector") if peer.get(name) is not None]
    for name in selectors:
        yield from selector_findings(peer[name], f"{path}.{name}")
    block = peer.get("ipBlock")
    if (block is None) == (not selectors):
        yield PEER.at(path, "ipBlock and selectors" if selectors else "empty")
    if block is not None:
        outer = _network(mapping(peer, "ipBlock").get("cidr"))
        inner = [_network(text) for text in mapping(peer, "ipBlock").get("except") or []]
        if outer is None or any(
            net is None or net.version != outer.version or not net.subnet_of(outer) for net in inner
        ):
            yield PEER.at(f"{path}.ipBlock", f"{block}")


def _network(text: Any) -> Any:
    try:
        return ipaddress.ip_network(str(text), strict=False)
    except ValueError:
        return None


def data_findings(item: Node) -> Findings:
    """A ConfigMap or Secret: keys, and base64 in a Secret's data."""
    texts, binary = mapping(item, "data"), mapping(item, "binaryData")
    for name in ("data", "binaryData", "stringData"):
        for key in mapping(item, name):
            wrong = syntax.config_key(str(key))
            if wrong:
                yield KEY.at(f"{name}[{key}]", wrong)
    for key in texts.keys() & binary.keys():
        yield KEY.at(f"binaryData[{key}]", "stands in data as well")
    encoded = [("data", texts)] if item.get("kind") == "Secret" else [("binaryData", binary)]
    for name, values in encoded:
        for key, value in values.items():
            try:
                base64.b64decode(re.sub(r"[\r\n]", "", str(value or "")), validate=True)
            except ValueError:
                yield BASE64.at(f"{name}[{key}]", "no base64")
