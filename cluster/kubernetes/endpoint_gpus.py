"""GPUs that an endpoint's RayService needs, at rest and during each kind of change."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import yaml

from cluster.kubernetes.objects import Object, groups


@dataclass(frozen=True)
class Step:
    """One state or change of the endpoint."""

    name: str
    least: int
    """GPUs of its pods without load."""
    most: int
    """GPUs of its pods at full load."""


def endpoint_steps(service: Object) -> list[Step]:
    """The endpoint without a change, then the changes that need more.

    A pod holds its GPUs whether replicas use them or not. Every version of a student starts its own `replicas.min`.
    """
    workers = next(group for group in groups(service) if group.name != "head")
    if not workers.gpus:
        return [Step(name, 0, 0) for name in ("now", "one more version", "another image or generation")]
    students = _students(service)
    version = max((least for least, _ in students), default=0), max((most for _, most in students), default=0)
    room = workers.most * int(workers.gpus)

    def held(extra: int) -> tuple[int, int]:
        """GPUs of the pods for all students, and `extra` versions of the largest one."""
        least = sum(one for one, _ in students) + extra * version[0]
        most = sum(one for _, one in students) + extra * version[1]
        pods = [max(workers.least, math.ceil(gpus / workers.gpus)) * int(workers.gpus) for gpus in (least, most)]
        return min(pods[0], room), min(pods[1], room)

    now, canary = held(0), held(1)
    if (upgrade := service["spec"].get("upgradeStrategy", {})).get("type") == "NewClusterWithIncrementalUpgrade":
        surge = upgrade["clusterUpgradeOptions"].get("maxSurgePercent", 100) / 100
        second, third = (tuple(gpus + max(math.ceil(surge * gpus), 1) for gpus in now) for _ in range(2))
    else:
        second, third = (tuple(count * gpus for gpus in now) for count in (2, 3))
    delay_s = service["spec"].get("rayClusterDeletionDelaySeconds", 60)
    return [
        Step("now", *now),
        Step("one more version", *canary),
        Step("another image or generation", *second),
        Step(f"a rollback within {delay_s} s of its end", *third),
    ]


def _students(service: Object) -> list[tuple[int, int]]:
    """GPUs of each student's replicas: at least, at most."""
    config: dict[str, Any] = yaml.safe_load(service["spec"]["serveConfigV2"]) or {}
    found = []
    for application in config.get("applications", []):
        args = application.get("args", {})
        if "student" in args or "students" in args:
            serving = args["serving"]
            gpus = int(serving.get("gpus_per_replica", 0))
            found.append((serving["replicas"]["min"] * gpus, serving["replicas"]["max"] * gpus))
    return found
