"""Mutated objects: a base without a problem, changed in one place, with the rule that Kubernetes or KubeRay breaks off at."""

from tests.k8s.cases import apiserver, containers, operator, ours, pods, volumes
from tests.k8s.cases.bases import Case

CASES: list[Case] = [*apiserver.CASES, *operator.CASES, *containers.CASES, *pods.CASES, *volumes.CASES, *ours.CASES]

__all__ = ["CASES", "Case"]
