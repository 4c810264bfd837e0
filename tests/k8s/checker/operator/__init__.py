"""KubeRay 1.7.0's own rules, which its operator applies after the API server has accepted an object.

Read in ray-operator/controllers/ray/utils/validation.go; feature gates are at their defaults. An object that breaks one stays
in the cluster with a warning event and nothing runs.
"""

from tests.k8s.checker.operator.kinds import operator_findings

__all__ = ["operator_findings"]
