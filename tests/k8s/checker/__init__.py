"""Rendered manifests against everything that would refuse them, without a cluster.

    schemas        Kubernetes' own kinds by kubernetes-validate, Ray's kinds by KubeRay's CRDs, other kinds by kinds.yaml
    rules.yaml     CEL rules of the API server, KubeRay's operator, Pod validation and this project, for what k8s/ uses
    references     names and selectors between objects

A field of Ray's kinds for which rules.yaml has no rules is refused, so that no manifest relies on unchecked fields.
"""

from tests.k8s.checker.checks import check, verdicts
from tests.k8s.checker.problem import Problem
from tests.k8s.checker.rules import RULES, Rule

__all__ = ["RULES", "Problem", "Rule", "check", "verdicts"]
