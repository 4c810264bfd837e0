"""Each rule of the checker refuses its cases, and so do schemas and references."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from tests.k8s.checker import RULES, check
from tests.k8s.checker.problem import Object
from tests.k8s.checker.rules import parts, rule_problems
from tests.support.k8s.rendering import EXTERNALS, combined, needs_kustomize, overlay, with_components

CASES = [(rule.id, number) for rule in RULES.values() for number in range(len(rule.breaks))]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    """Production with its optional components. The RayService comes first, and each object once."""
    root = with_components(tmp_path_factory.mktemp("rules"), ["object-store", "kueue", "incremental-upgrade"])
    objects: list[Object] = []
    components = ["overlays/prod-gpu/run", "overlays/prod-gpu/settings", "components/schedule"]
    scheduled = combined(tmp_path_factory.mktemp("schedule"), ["base/label"], components)
    for item in (*overlay("prod-gpu", root), *scheduled):
        if item not in objects:
            objects.append(item)
    return sorted(objects, key=lambda item: item["kind"] != "RayService")


@needs_kustomize
@pytest.mark.parametrize(("rule", "number"), CASES, ids=str)
def test_a_case_breaks_its_rule_and_no_other(rule: str, number: int, rendered: list[Object]) -> None:
    for item in copy.deepcopy(rendered):
        found = next((part for part in parts(item) if part.name in RULES[rule].parts), None)
        if found is not None:
            break
    assert found is not None, f"no rendered object has a part {RULES[rule].parts}"
    for path, value in RULES[rule].breaks[number].items():
        change(found.node, path, value)
    broken = {problem.rule for problem in rule_problems(item) if problem.layer == rule.partition("/")[0]}
    assert broken == {rule}


def test_every_rule_has_a_case() -> None:
    assert [rule.id for rule in RULES.values() if not rule.breaks] == []


@needs_kustomize
@pytest.mark.parametrize(
    ("rule", "kind", "changes"),
    [
        ("apiserver/schema", "RayJob", {"kind": "RayJobs"}),
        ("apiserver/schema", "RayJob", {"metadata.lables": {"a": "b"}}),
        ("apiserver/schema", "RayJob", {"spec.backoffLimit": 2**31}),
        ("apiserver/schema", "RayCluster", {"spec.managedBy": "me"}),
        ("apiserver/schema", "PodDisruptionBudget", {"spec.minAvailabel": 1}),
        ("apiserver/schema", "PodDisruptionBudget", {"apiVersion": "policy/v1beta1"}),
        ("apiserver/schema", "PodMonitor", {"spec.podMetricsEndpoints[0].intervall": "15s"}),
        ("apiserver/schema", "ClusterQueue", {"spec.resourceGroups[0].coveredResources": ["cpu"]}),
        ("reference/twice", "Role", {"metadata.name": "raystill-runner"}),
        ("reference/missing", "RayJob", {"spec.submitterPodTemplate.spec.serviceAccountName": "other"}),
        ("reference/missing", "RayJob", {"metadata.labels": {"kueue.x-k8s.io/queue-name": "other"}}),
        ("reference/missing", "RayJob", {"spec.submitterPodTemplate.spec.imagePullSecrets": [{"name": "other"}]}),
        ("reference/missing", "Pod", {"spec.volumes[0].persistentVolumeClaim.claimName": "other"}),
        ("reference/missing", "StatefulSet", {"spec.serviceName": "other"}),
        ("reference/missing", "RoleBinding", {"roleRef.name": "other"}),
        ("reference/missing", "RoleBinding", {"subjects[0].name": "other"}),
        ("reference/missing", "LocalQueue", {"spec.clusterQueue": "other"}),
        ("reference/missing", "ClusterQueue", {"spec.resourceGroups[0].flavors[0].name": "other"}),
        ("reference/missing", "RayService", {"spec.upgradeStrategy.clusterUpgradeOptions.gatewayClassName": "other"}),
        ("reference/selects-nothing", "PodDisruptionBudget", {"spec.selector.matchLabels": {"app": "other"}}),
        ("reference/selects-nothing", "Service", {"spec.selector": {"app": "other"}}),
        ("reference/selects-nothing", "PodMonitor", {"spec.selector.matchLabels": {"ray.io/group": "other"}}),
        ("reference/selects-nothing", "NetworkPolicy", {"spec.podSelector": {"matchLabels": {"app": "other"}}}),
        ("reference/target-port", "Service", {"spec.ports[0].targetPort": "http"}),
    ],
)
def test_schemas_and_references_refuse(rule: str, kind: str, changes: Any, rendered: list[Object], crds: Path) -> None:
    objects = copy.deepcopy(rendered)
    item = next(item for item in objects if item["kind"] == kind)
    for path, value in changes.items():
        change(item, path, value)
    assert rule in {problem.rule for problem in check(objects, crds, EXTERNALS)}


def change(node: Any, path: str, value: Any) -> None:
    """Set the value at a path such as `spec.ports[0].port`. None removes it, and [+] appends."""
    keys = [int(key) if key.isdigit() else key for key in re.findall(r"[^.\[\]]+", path)]
    if "/" in path:  # a label's key
        keys = [path]
    for key in keys[:-1]:
        node = node[key] if isinstance(node, list) else node.setdefault(key, {})
    if value is None:
        node.pop(keys[-1], None)
    elif keys[-1] == "+":
        node.append(value)
    else:
        node[keys[-1]] = value
