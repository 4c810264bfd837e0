"""Selectors between objects: a budget, Service or PodMonitor that selects no Pod of the same namespace does nothing, in silence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.k8s.checker.nodes import Node, elements, get, mapping
from tests.k8s.checker.pods import Template, pod_templates
from tests.k8s.checker.pods.selectors import matches
from tests.k8s.checker.problem import Findings, rule
from tests.k8s.checker.references import namespace_of

NOTHING = rule("reference/selects-nothing", "select labels that Pods of these objects have")
TARGET = rule("reference/target-port", "name a port of the selected Pods' containers")

_SELECTORS = {"PodDisruptionBudget": "spec.selector", "PodMonitor": "spec.selector"}


@dataclass(frozen=True)
class Pods:
    """Pods of one template: their labels and the names of their ports."""

    namespace: str
    labels: Node
    ports: frozenset[str]


def pods_of(objects: Sequence[Node]) -> list[Pods]:
    """Pods that the objects make, with the labels that KubeRay adds."""
    return [
        Pods(namespace_of(item), _labels(item, template), _ports(template))
        for item in objects
        for template in pod_templates(item)
    ]


def selection_findings(item: Node, pods: Sequence[Pods]) -> Findings:
    """In: an object and all Pods. Out: selectors that find none, and target ports that no selected Pod has."""
    kind = str(item.get("kind"))
    if kind in _SELECTORS:
        selector = mapping(item, _SELECTORS[kind])
        if not any(_seen(item, one) and matches(selector, one.labels) for one in pods):
            yield NOTHING.at(_SELECTORS[kind], "selects no Pod")
    if kind == "Service" and get(item, "spec.selector"):
        selected = [
            one for one in pods if _seen(item, one) and matches({"matchLabels": get(item, "spec.selector")}, one.labels)
        ]
        if not selected:
            yield NOTHING.at("spec.selector", "selects no Pod")
        for path, port in elements(item, "spec.ports"):
            target = port.get("targetPort")
            if selected and isinstance(target, str) and not any(target in one.ports for one in selected):
                yield TARGET.at(f"{path}.targetPort", f"no selected Pod has a port {target!r}")


def _seen(item: Node, pods: Pods) -> bool:
    elsewhere = mapping(item, "spec.namespaceSelector")
    named = elsewhere.get("matchNames") or []
    return bool(elsewhere.get("any")) or pods.namespace in (named or [namespace_of(item)])


def _labels(item: Node, template: Template) -> Node:
    labels = dict(mapping(template.node, "metadata.labels"))
    if template.role in ("head", "worker"):
        labels |= {
            "ray.io/node-type": template.role,
            "ray.io/is-ray-node": "yes",
            "ray.io/group": str(template.group.get("groupName", "headgroup")),
            "app.kubernetes.io/name": "kuberay",
            "app.kubernetes.io/created-by": "kuberay-operator",
        }
        if item.get("kind") == "RayCluster":
            labels["ray.io/cluster"] = str(get(item, "metadata.name"))
    return labels


def _ports(template: Template) -> frozenset[str]:
    return frozenset(_port_names(template))


def _port_names(template: Template) -> Iterator[str]:
    for path, container in template.containers():
        yield from (str(port["name"]) for _, port in elements(container, "ports", path) if port.get("name"))
