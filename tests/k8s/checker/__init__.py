"""Kubernetes objects held against what would refuse them, layer after layer:

    structure, cel_rules, metadata, crds   apiserver  custom resources, as an API server with KubeRay's CRDs takes them
    core/                                  apiserver  Kubernetes' own kinds
    operator/                              operator   KubeRay's rules
    pods/                                  pod        Pod templates as Pods
    serve                                  serve      serveConfigV2
    references, selection                  reference  names and selectors between objects
    policy                                 policy     what we ask of our own manifests

`check` runs them all; `verdicts` says what the first three layers come to.
"""

from tests.k8s.checker.checks import check, verdicts
from tests.k8s.checker.crds import Crds, load_crds
from tests.k8s.checker.problem import RULES, Problem, Rule

__all__ = ["RULES", "Crds", "Problem", "Rule", "check", "load_crds", "verdicts"]
