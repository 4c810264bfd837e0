"""Rules of head and worker groups: containers, replicas, resources, labels."""

from __future__ import annotations

from tests.k8s.checker import syntax
from tests.k8s.checker.nodes import join, mapping
from tests.k8s.checker.operator.clusters import Cluster, group_name, pod_spec_path
from tests.k8s.checker.problem import Findings, rule

CONTAINERS = rule("operator/no-container", "give the group's template at least one container, the Ray one first")
NEGATIVE = rule("operator/negative-replicas", "take 0 or more")
MIN_MAX = rule("operator/min-above-max", "make minReplicas at most maxReplicas")
RESOURCES = rule("operator/resources-twice", "set the group's resources in rayStartParams or in resources, not in both")
LABELS_PARAM = rule("operator/labels-in-params", "use the group's field labels, not rayStartParams.labels")
LABEL = rule("operator/group-label", "write the labels as Kubernetes writes its own")


def group_findings(cluster: Cluster) -> Findings:
    """In: a cluster's spec. Out: what is wrong with one of its groups."""
    for path, group in cluster.groups():
        params, resources = mapping(group, "rayStartParams"), mapping(group, "resources")
        if not mapping(group, "template.spec").get("containers"):
            yield CONTAINERS.at(pod_spec_path(path, "containers"), "no container")
        if resources and any(params.get(key) for key in ("num-cpus", "num-gpus", "memory", "resources")):
            yield RESOURCES.at(f"{path}.resources", f"rayStartParams of group {group_name(path, group)} set some too")
        if "labels" in params:
            yield LABELS_PARAM.at(f"{path}.rayStartParams.labels", "not supported")
        for key, value in mapping(group, "labels").items():
            for wrong in (syntax.qualified_name(key), syntax.label_value(value)):
                if wrong:
                    yield LABEL.at(join(f"{path}.labels", key), wrong)
    for path, group in cluster.workers():
        low, high = group.get("minReplicas", 0), group.get("maxReplicas", 0)
        for name in ("minReplicas", "maxReplicas"):
            if group.get(name, 0) < 0:
                yield NEGATIVE.at(f"{path}.{name}", f"{group[name]}")
        if low > high:
            yield MIN_MAX.at(f"{path}.minReplicas", f"{low}, and maxReplicas is {high}")
