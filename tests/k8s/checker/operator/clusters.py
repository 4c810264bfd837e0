"""A RayCluster spec as the operator's rules read it, wherever it stands: in a RayCluster, RayJob, RayCronJob or RayService."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.k8s.checker.nodes import Node, elements, get, join, mapping
from tests.k8s.checker.quantities import integer


@dataclass(frozen=True)
class Cluster:
    """`spec` is the RayClusterSpec, `path` where it stands, `annotations` are those of the object around it."""

    spec: Node
    path: str
    annotations: Node = field(default_factory=dict)

    def at(self, path: str) -> str:
        """A path inside the spec, from the object's root."""
        return f"{self.path}.{path}"

    @property
    def head(self) -> Node:
        """headGroupSpec."""
        return mapping(self.spec, "headGroupSpec")

    def workers(self) -> Iterator[tuple[str, Node]]:
        """(path, group) of workerGroupSpecs."""
        return elements(self.spec, "workerGroupSpecs", self.path)

    def groups(self) -> Iterator[tuple[str, Node]]:
        """The head group, then the worker groups."""
        yield self.at("headGroupSpec"), self.head
        yield from self.workers()

    def head_env(self, name: str) -> Node | None:
        """A variable of the head's Ray container, which is always the first one."""
        return variable(first_container(self.head), name)

    @property
    def head_env_path(self) -> str:
        """Where the head's variables stand."""
        return self.at("headGroupSpec.template.spec.containers[0].env")

    @property
    def autoscaled(self) -> bool:
        """The operator runs the autoscaler."""
        return get(self.spec, "enableInTreeAutoscaling") is True

    @property
    def autoscaler_v2(self) -> bool:
        """Version 2 is asked for by name; an unset version does not count, whatever Ray would choose."""
        return bool(get(self.spec, "autoscalerOptions.version") == "v2")

    @property
    def autoscaler_v2_by_env(self) -> bool:
        """The variable of KubeRay before 1.4 switches version 2 on."""
        return (self.head_env("RAY_enable_autoscaler_v2") or {}).get("value") in ("1", "true")


def first_container(group: Node) -> Node:
    """A group's Ray container, an empty one where there is none."""
    return next((container for _, container in elements(group, "template.spec.containers")), {})


def variable(container: Node, name: str) -> Node | None:
    """An entry of a container's env by its name."""
    return next((entry for _, entry in elements(container, "env") if entry.get("name") == name), None)


def group_name(path: str, group: Node) -> str:
    """How messages name a group: its groupName, `Head` for the head's."""
    return str(group.get("groupName", "Head"))


def pod_spec_path(path: str, name: str) -> str:
    """A field of a group's Pod spec."""
    return join(f"{path}.template.spec", name)


def version(text: str) -> tuple[int, ...] | None:
    """A version's numbers as apimachinery's ParseGeneric reads them: at least two, whatever follows is dropped.

    >>> version("2.52.0rc1")
    (2, 52, 0)
    """
    match = re.match(r"\s*v?([0-9]+(?:\.[0-9]+)+)", text)
    if match is None or re.match(r"0[0-9]", match[1]):
        return None
    numbers = [integer(number) for number in match[1].split(".")]
    known = [number for number in numbers if number is not None]
    return tuple(known + [0] * (3 - len(known))) if len(known) == len(numbers) else None
