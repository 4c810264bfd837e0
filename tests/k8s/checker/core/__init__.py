"""Kubernetes' own kinds: their schemas, and what their validation adds."""

from __future__ import annotations

from collections.abc import Callable

from tests.k8s.checker.core.objects import (
    binding_findings,
    claim_findings,
    claim_spec_findings,
    data_findings,
    network_findings,
    role_findings,
    service_findings,
)
from tests.k8s.checker.core.schemas import is_core, schema_findings
from tests.k8s.checker.core.workloads import budget_findings, workload_findings
from tests.k8s.checker.nodes import Node, elements, mapping
from tests.k8s.checker.problem import Findings

__all__ = ["core_findings", "is_core"]

_BY_KIND: dict[str, Callable[[Node], Findings]] = {
    **dict.fromkeys(("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob"), workload_findings),
    "PodDisruptionBudget": budget_findings,
    "Service": service_findings,
    "PersistentVolumeClaim": claim_findings,
    **dict.fromkeys(("Role", "ClusterRole"), role_findings),
    **dict.fromkeys(("RoleBinding", "ClusterRoleBinding"), binding_findings),
    "NetworkPolicy": network_findings,
    **dict.fromkeys(("ConfigMap", "Secret"), data_findings),
}


def core_findings(item: Node) -> Findings:
    """In: an object of one of Kubernetes' kinds. Out: what the API server refuses; Pod templates are checked by `pods`."""
    shape = list(schema_findings(item))
    yield from shape
    if shape:
        return
    if item.get("kind") in _BY_KIND:
        yield from _BY_KIND[str(item["kind"])](item)
    for path, claim in elements(item, "spec.volumeClaimTemplates"):
        yield from claim_spec_findings(mapping(claim, "spec"), f"{path}.spec")
