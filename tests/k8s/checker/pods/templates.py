"""Pod templates inside objects: the API server checks a custom resource's templates against its schema only, Pods in full.

In: an object, with its defaults. Out: its templates, each with where it stands and what its Pods are for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.k8s.checker.nodes import Node, elements, get, mapping

_WORKLOADS = {
    "Pod": "",
    "Deployment": "spec.template",
    "StatefulSet": "spec.template",
    "DaemonSet": "spec.template",
    "ReplicaSet": "spec.template",
    "ReplicationController": "spec.template",
    "Job": "spec.template",
    "CronJob": "spec.jobTemplate.spec.template",
    "PodTemplate": "template",
}
CLUSTERS = {"RayCluster": "spec", "RayService": "spec.rayClusterConfig", "RayJob": "spec.rayClusterSpec"}
CLUSTERS["RayCronJob"] = "spec.jobTemplate.rayClusterSpec"
_SUBMITTERS = {"RayJob": "spec.submitterPodTemplate", "RayCronJob": "spec.jobTemplate.submitterPodTemplate"}
# Claim templates are checked where they stand; here they only have to pass.
_ANY_CLAIM: Node = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1"}}}


@dataclass(frozen=True)
class Template:
    """A Pod template: `path` is empty for a Pod itself; `role` is head, worker, submitter or the workload's kind."""

    path: str
    role: str
    node: Node
    group: Node

    @property
    def spec(self) -> Node:
        """The Pod's spec."""
        return mapping(self.node, "spec")

    @property
    def spec_path(self) -> str:
        """Where the spec stands in the object."""
        return f"{self.path}.spec" if self.path else "spec"

    @property
    def metadata_path(self) -> str:
        """Where the metadata stands in the object."""
        return f"{self.path}.metadata" if self.path else "metadata"

    def containers(self) -> Iterator[tuple[str, Node]]:
        """(path, container) of init containers, then of containers."""
        yield from elements(self.spec, "initContainers", self.spec_path)
        yield from elements(self.spec, "containers", self.spec_path)


def pod_templates(item: Node) -> Iterator[Template]:
    """Every Pod template of an object; objects without Pods have none.

    >>> [t.role for t in pod_templates({"kind": "RayCluster", "spec": {"headGroupSpec": {"template": {"spec": {}}}}})]
    ['head']
    """
    kind = str(item.get("kind"))
    if kind in _WORKLOADS:
        path = _WORKLOADS[kind]
        node = mapping(item, path) if path else item
        yield Template(path, kind, _with_claims(item, node) if kind == "StatefulSet" else node, {})
    if kind in CLUSTERS:
        cluster, path = mapping(item, CLUSTERS[kind]), CLUSTERS[kind]
        if "headGroupSpec" in cluster:
            head = mapping(cluster, "headGroupSpec")
            yield Template(f"{path}.headGroupSpec.template", "head", mapping(head, "template"), head)
        for place, group in elements(cluster, "workerGroupSpecs", path):
            yield Template(f"{place}.template", "worker", mapping(group, "template"), group)
    if get(item, _SUBMITTERS.get(kind, "-")) is not None:
        yield Template(_SUBMITTERS[kind], "submitter", mapping(item, _SUBMITTERS[kind]), {})


def _with_claims(item: Node, template: Node) -> Node:
    """A StatefulSet's template with the volumes that its claim templates become; they stand behind those it has."""
    spec = mapping(template, "spec")
    names = [get(claim, "metadata.name") for _, claim in elements(item, "spec.volumeClaimTemplates")]
    claims = [{"name": name, "ephemeral": {"volumeClaimTemplate": {"spec": _ANY_CLAIM}}} for name in names]
    return {**template, "spec": {**spec, "volumes": [*(spec.get("volumes") or []), *claims]}}
