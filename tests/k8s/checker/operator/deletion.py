"""Rules of a RayJob's deletionStrategy: policies by outcome (legacy), or a list of rules with times."""

from __future__ import annotations

import itertools

from tests.k8s.checker.nodes import Node, elements, get, mapping
from tests.k8s.checker.problem import Findings, rule

SHUTDOWN = rule("operator/rules-with-shutdown", "keep deletionRules or shutdownAfterJobFinishes, not both")
SELECTOR = rule(
    "operator/deletion-with-selector", "use DeleteSelf or DeleteNone: a selected cluster is not the job's to delete"
)
AUTOSCALER = rule(
    "operator/delete-workers-with-autoscaler", "use DeleteCluster: the autoscaler would bring workers back"
)
DUPLICATE = rule("operator/duplicate-deletion-rule", "keep one rule for each policy and status")
ORDER = rule("operator/deletion-order", "let ttlSeconds rise from DeleteWorkers over DeleteCluster to DeleteSelf")
LEGACY_POLICY = rule("operator/deletion-without-policy", "set policy under onSuccess and under onFailure")
LEGACY_NONE = rule(
    "operator/shutdown-with-delete-none", "drop shutdownAfterJobFinishes, or take another policy than DeleteNone"
)

_ORDER = ["DeleteWorkers", "DeleteCluster", "DeleteSelf"]
_TOUCHES_CLUSTER = ("DeleteWorkers", "DeleteCluster")

# That a rule has exactly one status, that times are not negative, and that legacy policies come in pairs and without rules
# is said by the CRD itself, so that the API server refuses it before the operator can.


def deletion_findings(spec: Node, path: str) -> Findings:
    """In: a RayJob's spec. Out: what is wrong with its deletionStrategy."""
    strategy = get(spec, "deletionStrategy")
    if strategy is None:
        return
    at = f"{path}.deletionStrategy"
    rules = list(elements(strategy, "deletionRules", at))
    if rules and spec.get("shutdownAfterJobFinishes") is True:
        yield SHUTDOWN.at(f"{at}.deletionRules", "set, and shutdownAfterJobFinishes is true")
    policies = [(f"{place}.policy", str(entry.get("policy"))) for place, entry in rules]
    for outcome in ("onSuccess", "onFailure"):
        if outcome in strategy:
            policy = get(strategy, f"{outcome}.policy")
            if policy is None:
                yield LEGACY_POLICY.at(f"{at}.{outcome}", "without a policy")
            if policy == "DeleteNone" and spec.get("shutdownAfterJobFinishes") is True:
                yield LEGACY_NONE.at(f"{at}.{outcome}.policy", "DeleteNone, and shutdownAfterJobFinishes is true")
            policies.append((f"{at}.{outcome}.policy", str(policy)))
    autoscaled = get(spec, "rayClusterSpec.enableInTreeAutoscaling") is True
    for place, policy in policies:
        if mapping(spec, "clusterSelector") and policy in _TOUCHES_CLUSTER:
            yield SELECTOR.at(place, f"{policy} with a clusterSelector")
        if autoscaled and policy == "DeleteWorkers":
            yield AUTOSCALER.at(place, "DeleteWorkers, and the autoscaler is on")
    yield from _rule_findings(rules)


def _rule_findings(rules: list[tuple[str, Node]]) -> Findings:
    ttls: dict[tuple[str, str], dict[str, int]] = {}
    for place, entry in rules:
        policy = str(entry.get("policy"))
        condition = mapping(entry, "condition")
        for kind in ("jobStatus", "jobDeploymentStatus"):
            if kind in condition:
                of_status = ttls.setdefault((kind, condition[kind]), {})
                if policy in of_status:
                    yield DUPLICATE.at(place, f"a second rule for {policy} at {kind} {condition[kind]}")
                else:
                    of_status[policy] = condition.get("ttlSeconds", 0)
    for (kind, status), of_status in ttls.items():
        ordered = [(policy, of_status[policy]) for policy in _ORDER if policy in of_status]
        for (earlier, low), (later, high) in itertools.pairwise(ordered):
            if high < low:
                yield ORDER.at(
                    rules[0][0].rpartition("[")[0],
                    f"at {kind} {status} {later} after {high} s comes before {earlier} after {low} s",
                )
