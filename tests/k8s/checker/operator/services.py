"""Rules of a RayService's spec and annotations."""

from __future__ import annotations

from tests.k8s.checker.nodes import Node, get, mapping
from tests.k8s.checker.operator.durations import duration_s
from tests.k8s.checker.problem import Findings, rule
from tests.k8s.checker.quantities import integer

HEAD_SERVICE = rule("operator/head-service-name", "leave headService.metadata.name out: a RayService names it itself")
UPGRADE_TYPE = rule("operator/upgrade-type", "take NewCluster, None or NewClusterWithIncrementalUpgrade")
INITIALIZING = rule("operator/initializing-timeout", "write a Go duration above zero (30m), or seconds")
AUTOSCALER = rule("operator/incremental-needs-autoscaler", "set rayClusterConfig.enableInTreeAutoscaling: true")
OPTIONS = rule("operator/incremental-needs-options", "set upgradeStrategy.clusterUpgradeOptions")
PERCENT = rule("operator/upgrade-percent", "take 0 to 100")
STEP = rule("operator/step-above-surge", "make stepSizePercent at most maxSurgePercent")
INTERVAL = rule("operator/upgrade-interval", "take 1 or more seconds")
GATEWAY = rule("operator/gateway-class", "name the Gateway API class that the cluster has")

_INITIALIZING = "ray.io/initializing-timeout"
_TYPES = ("NewCluster", "None", "NewClusterWithIncrementalUpgrade")


def service_findings(spec: Node, annotations: Node) -> Findings:
    """In: a RayService's spec and annotations. Out: what is wrong beside its cluster's spec."""
    yield from _initializing_findings(str(annotations.get(_INITIALIZING, "")))
    if get(spec, "rayClusterConfig.headGroupSpec.headService.metadata.name"):
        yield HEAD_SERVICE.at("spec.rayClusterConfig.headGroupSpec.headService.metadata.name", "set")
    kind = get(spec, "upgradeStrategy.type")
    if kind is not None and kind not in _TYPES:
        yield UPGRADE_TYPE.at("spec.upgradeStrategy.type", f"{kind!r}")
    if kind != "NewClusterWithIncrementalUpgrade":
        return
    if get(spec, "rayClusterConfig.enableInTreeAutoscaling") is not True:
        yield AUTOSCALER.at("spec.rayClusterConfig.enableInTreeAutoscaling", "not true, and the upgrade is incremental")
    if get(spec, "upgradeStrategy.clusterUpgradeOptions") is None:
        yield OPTIONS.at("spec.upgradeStrategy", "incremental without clusterUpgradeOptions")
    else:
        yield from _option_findings(mapping(spec, "upgradeStrategy.clusterUpgradeOptions"))


def _option_findings(options: Node) -> Findings:
    path = "spec.upgradeStrategy.clusterUpgradeOptions"
    surge, step = options.get("maxSurgePercent", 100), options.get("stepSizePercent", 0)
    for name, value in (("maxSurgePercent", surge), ("stepSizePercent", step)):
        if not 0 <= value <= 100:
            yield PERCENT.at(f"{path}.{name}", f"{value}")
    if step > surge:
        yield STEP.at(f"{path}.stepSizePercent", f"{step}, and maxSurgePercent is {surge}")
    if options.get("intervalSeconds", 0) <= 0:
        yield INTERVAL.at(f"{path}.intervalSeconds", f"{options.get('intervalSeconds')}")
    if not options.get("gatewayClassName"):
        yield GATEWAY.at(f"{path}.gatewayClassName", "empty")


def _initializing_findings(text: str) -> Findings:
    seconds = duration_s(text)
    if seconds is None:
        seconds = integer(text)
    if text and (seconds is None or seconds <= 0):
        yield INITIALIZING.at(f"metadata.annotations[{_INITIALIZING}]", f"{text!r}")
