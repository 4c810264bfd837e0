"""Which rules hold for which kind, and the rules of their names."""

from __future__ import annotations

import functools
import zoneinfo

from tests.k8s.checker import syntax
from tests.k8s.checker.nodes import Node, get, mapping
from tests.k8s.checker.operator.auth import auth_findings, gate_findings, kubernetes_auth_findings
from tests.k8s.checker.operator.autoscaling import autoscaler_findings
from tests.k8s.checker.operator.clusters import Cluster
from tests.k8s.checker.operator.cronspec import schedule_error
from tests.k8s.checker.operator.gcs import gcs_findings
from tests.k8s.checker.operator.groups import group_findings
from tests.k8s.checker.operator.jobs import job_findings
from tests.k8s.checker.operator.services import service_findings
from tests.k8s.checker.problem import Findings, rule

NAME_LENGTH = rule("operator/name-length", "shorten the name: KubeRay appends to it")
NAME_SYNTAX = rule(
    "operator/name-syntax", "start the name with a letter and use lower-case letters, digits and '-' (no dots)"
)
ORIGIN = rule("operator/upgrade-of-owned-cluster", "drop upgradeStrategy: the RayJob or RayService above decides")
SCHEDULE_ZONE = rule("operator/zone-in-schedule", "move the zone to timeZone")
SCHEDULE = rule("operator/schedule", "write five cron fields, or @daily, or @every 1h30m")
ZONE = rule("operator/time-zone", "take a name of the IANA database: Europe/Berlin")

MAX_NAME = {"RayCluster": 53, "RayJob": 47, "RayService": 47, "RayCronJob": 36}


def operator_findings(item: Node) -> Findings:
    """In: an object of group ray.io that the API server accepts, with its defaults. Out: what the operator refuses."""
    kind, spec = str(item.get("kind")), mapping(item, "spec")
    annotations = mapping(item, "metadata.annotations")
    yield from _name_findings(kind, str(get(item, "metadata.name") or ""))
    if kind == "RayCluster":
        yield from cluster_findings(Cluster(spec, "spec", annotations))
        if get(spec, "upgradeStrategy.type") and _origin(item) in ("RayJob", "RayService"):
            yield ORIGIN.at("spec.upgradeStrategy", f"set, and a {_origin(item)} made the cluster")
    elif kind == "RayJob":
        yield from _job_findings(spec, "spec", annotations)
    elif kind == "RayCronJob":
        yield from _schedule_findings(spec)
        # The operator holds the template against a RayJob without annotations.
        yield from _job_findings(mapping(spec, "jobTemplate"), "spec.jobTemplate", {})
    elif kind == "RayService":
        cluster = Cluster(mapping(spec, "rayClusterConfig"), "spec.rayClusterConfig", annotations)
        yield from service_findings(spec, annotations)
        yield from kubernetes_auth_findings(cluster)
        yield from cluster_findings(cluster)


def cluster_findings(cluster: Cluster) -> Findings:
    """Rules of a RayClusterSpec, wherever it stands."""
    for findings in (group_findings, autoscaler_findings, gcs_findings, auth_findings, gate_findings):
        yield from findings(cluster)


def _job_findings(spec: Node, path: str, annotations: Node) -> Findings:
    yield from job_findings(spec, path)
    if "rayClusterSpec" in spec:
        cluster = Cluster(mapping(spec, "rayClusterSpec"), f"{path}.rayClusterSpec", annotations)
        yield from kubernetes_auth_findings(cluster)
        yield from cluster_findings(cluster)


def _origin(item: Node) -> str:
    return str(mapping(item, "metadata.labels").get("ray.io/originated-from-crd", ""))


def _name_findings(kind: str, name: str) -> Findings:
    if len(name) > MAX_NAME.get(kind, 253):
        yield NAME_LENGTH.at("metadata.name", f"{len(name)} characters, at most {MAX_NAME[kind]} for a {kind}")
    # A RayCronJob's name is bounded only: its jobs' names are derived from it.
    if name and kind != "RayCronJob" and len(name) <= MAX_NAME.get(kind, 253) and syntax.dns_1035_label(name):
        yield NAME_SYNTAX.at("metadata.name", str(syntax.dns_1035_label(name)))


def _schedule_findings(spec: Node) -> Findings:
    schedule, zone = str(spec.get("schedule", "")), spec.get("timeZone")
    wrong = schedule_error(schedule)
    if "TZ" in schedule:
        yield SCHEDULE_ZONE.at("spec.schedule", f"{schedule!r} names a time zone")
    elif wrong:
        yield SCHEDULE.at("spec.schedule", wrong)
    if zone is not None and zone != "Local" and zone not in _zones():
        yield ZONE.at("spec.timeZone", f"{zone!r} is no time zone")


@functools.cache
def _zones() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones())
