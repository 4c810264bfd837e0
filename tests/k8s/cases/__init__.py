"""Mutated objects: a base without a problem, changed in one place, with the rule that Kubernetes or KubeRay breaks off at."""

from tests.k8s.cases import (
    apiserver,
    containers,
    operator,
    ours,
    pods,
    probes,
    resources,
    security,
    systems,
    variables,
    volumes,
)
from tests.k8s.cases.bases import Case

_OF_CONTAINERS = (resources, containers, variables, probes, security, systems)

CASES: list[Case] = [
    *(*apiserver.CASES, *operator.CASES),
    *(case for module in _OF_CONTAINERS for case in module.CASES),
    *(*pods.CASES, *volumes.CASES, *ours.CASES),
]

__all__ = ["CASES", "Case"]
