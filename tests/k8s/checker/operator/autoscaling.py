"""Rules of the autoscaler: its version, what it cannot be combined with, and what needs it."""

from __future__ import annotations

from tests.k8s.checker.nodes import elements, get, mapping
from tests.k8s.checker.operator.clusters import Cluster, pod_spec_path, version
from tests.k8s.checker.problem import Findings, rule

SUSPENDED = rule("operator/suspended-group", "suspend worker groups only without enableInTreeAutoscaling")
V2_ENV_OFF = rule(
    "operator/v2-env-without-autoscaler", "set enableInTreeAutoscaling: true, or drop RAY_enable_autoscaler_v2"
)
V2_TWICE = rule("operator/v2-twice", "set autoscalerOptions.version and drop RAY_enable_autoscaler_v2 from the head")
V2_RESTART = rule("operator/v2-restart-policy", "set restartPolicy: Never or leave it out: autoscaler v2 replaces Pods")
START_COMMAND = rule("operator/autoscaler-start-command", "leave KUBERAY_GEN_AUTOSCALER_START_CMD to KubeRay")
IDLE_NEGATIVE = rule("operator/negative-idle-timeout", "take 0 or more seconds")
IDLE_V2 = rule("operator/group-idle-timeout-needs-v2", "set autoscalerOptions.version: v2")
PRIORITY_V2 = rule("operator/priority-needs-v2", "set autoscalerOptions.version: v2")
PRIORITY_RAY = rule("operator/priority-needs-ray", "set rayVersion to 2.56.0 or later")

_V2 = "RAY_enable_autoscaler_v2"
_START_COMMAND = "KUBERAY_GEN_AUTOSCALER_START_CMD"


def autoscaler_findings(cluster: Cluster) -> Findings:
    """In: a cluster's spec. Out: what is wrong with its autoscaler's options or with groups beside them."""
    options = mapping(cluster.spec, "autoscalerOptions")
    if not cluster.autoscaled and cluster.autoscaler_v2_by_env:
        yield V2_ENV_OFF.at(cluster.head_env_path, f"{_V2} is set, and enableInTreeAutoscaling is not")
    if cluster.autoscaled:
        for path, group in cluster.workers():
            if group.get("suspend") is True:
                yield SUSPENDED.at(f"{path}.suspend", "true, and the autoscaler is on")
        if "version" in options and cluster.head_env(_V2) is not None:
            yield V2_TWICE.at(cluster.head_env_path, f"{_V2} and autoscalerOptions.version are both set")
    if cluster.autoscaled and cluster.autoscaler_v2:
        for path, group in cluster.groups():
            policy = get(group, "template.spec.restartPolicy")
            if policy not in (None, "", "Never"):
                yield V2_RESTART.at(pod_spec_path(path, "restartPolicy"), f"{policy} with autoscaler v2")
    for path, entry in elements(options, "env", cluster.at("autoscalerOptions")):
        if entry.get("name") == _START_COMMAND:
            yield START_COMMAND.at(path, "KubeRay sets this variable itself")
    if options.get("idleTimeoutSeconds", 0) < 0:
        yield IDLE_NEGATIVE.at(cluster.at("autoscalerOptions.idleTimeoutSeconds"), f"{options['idleTimeoutSeconds']}")
    yield from _group_findings(cluster)


def _group_findings(cluster: Cluster) -> Findings:
    v2 = cluster.autoscaler_v2 or cluster.autoscaler_v2_by_env
    for path, group in cluster.workers():
        idle_s, priority = group.get("idleTimeoutSeconds"), group.get("priority")
        if idle_s is not None and idle_s < 0:
            yield IDLE_NEGATIVE.at(f"{path}.idleTimeoutSeconds", f"{idle_s}")
        elif idle_s is not None and not v2:
            yield IDLE_V2.at(f"{path}.idleTimeoutSeconds", "set, and autoscaler v2 is not")
        if priority:
            ray = version(str(cluster.spec.get("rayVersion", "")))
            if ray is None or ray < (2, 56, 0):
                yield PRIORITY_RAY.at(f"{path}.priority", f"set, and rayVersion is {cluster.spec.get('rayVersion')}")
            if not v2:
                yield PRIORITY_V2.at(f"{path}.priority", "set, and autoscaler v2 is not")
