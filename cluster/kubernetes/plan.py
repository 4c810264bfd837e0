"""What `raystill k8s run` would create, and the GPUs that each step needs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict

from cluster.kubernetes.api import Api
from cluster.kubernetes.job import StageJob
from cluster.kubernetes.objects import HEAD, RAYJOB, Object, groups
from cluster.kubernetes.state import JobState
from cluster.session.resources import amounts, stage_requests
from pipelines.config import RunConfig


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PlannedGroup(_Model):
    """Worker pods of one kind."""

    name: str
    least: int
    most: int
    gpus: float
    cpus: float
    """Of one pod."""


class PlannedJob(_Model):
    """The RayJob of one stage."""

    stage: str
    job: str
    namespace: str
    action: Literal["create", "attach", "replace", "unknown"]
    """`unknown`: no server was queried."""
    state: str
    """Of the job that has this name; empty if none has."""
    groups: list[PlannedGroup]


class GpuStep(_Model):
    """A step and the GPUs that it holds. `least`: at its start; `most`: if it grows as far as it may."""

    step: str
    least: float
    most: float
    used: float | None
    """What the run file requests at most, if the step is a stage."""


class KubernetesPlan(_Model):
    """The plan of a run on an overlay. `--json` prints it."""

    overlay: str
    run: str
    jobs: list[PlannedJob]
    gpus: list[GpuStep]


def planned_job(api: Api | None, job: StageJob) -> PlannedJob:
    """The plan of one stage. Without a server it says nothing of jobs that exist."""
    action: Literal["create", "attach", "replace", "unknown"] = "unknown"
    state = ""
    if api is not None:
        found = api.get(RAYJOB, job.namespace, job.name)
        old = JobState.of(found) if found is not None else None
        action = "create" if old is None else "replace" if old.has_ended else "attach"
        state = old.status if old else ""
    return PlannedJob(
        stage=job.stage, job=job.name, namespace=job.namespace, action=action, state=state,
        groups=[
            PlannedGroup(name=group.name, least=group.least, most=group.most, gpus=group.gpus, cpus=group.cpus)
            for group in groups(job.rayjob)
            if group.name != HEAD
        ],
    )  # fmt: skip


def stage_step(run: RunConfig, job: StageJob) -> GpuStep:
    """The GPUs of a stage: what its groups hold, and what the run file requests of them."""
    if job.stage == "label":
        used = run.teacher.replicas.max * run.teacher.gpus_per_replica
    else:
        used = sum(request.count * request.gpus for request in stage_requests(run, job.stage))
    least, most = _gpus(job.rayjob)
    return GpuStep(step=job.stage, least=least, most=most, used=used)


def _gpus(found: Object) -> tuple[float, float]:
    """GPUs of an object's cluster at its smallest and largest."""
    clusters = list(groups(found))
    return sum(group.least * group.gpus for group in clusters), sum(group.most * group.gpus for group in clusters)


def endpoint_steps(service: Object) -> list[GpuStep]:
    """The GPUs of an endpoint without a change, then of the changes that need more.

    A pod holds its GPUs whether replicas use them or not. Every version of a student starts its own `replicas.min`.
    """
    workers = next(group for group in groups(service) if group.name != "head")
    if not workers.gpus:
        return [_endpoint(change, (0, 0)) for change in ("now", "one more version", "another image or generation")]
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
        _endpoint("now", now),
        _endpoint("one more version", canary),
        _endpoint("another image or generation", second),
        _endpoint(f"a rollback within {delay_s} s of its end", third),
    ]


def _endpoint(change: str, gpus: tuple[int, ...]) -> GpuStep:
    return GpuStep(step=f"endpoint, {change}", least=gpus[0], most=gpus[1], used=None)


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


def plan_lines(plan: KubernetesPlan) -> Iterator[str]:
    """The plan in words."""
    verbs = {"create": "would be created", "attach": "runs; `run` would attach", "unknown": "not looked up"}
    for job in plan.jobs:
        verb = verbs.get(job.action, f"has {job.state}; `run` would replace it")
        yield f"{job.stage:9} RayJob {job.job} in {job.namespace}: {verb}"
        for group in job.groups:
            pods = f"{group.least}" if group.least == group.most else f"{group.least} to {group.most}"
            each = amounts({kind: n for kind, n in (("GPU", group.gpus), ("CPU", group.cpus)) if n})
            yield f"{'':9} {group.name}: {pods} pod{'' if group.most == 1 else 's'} of {each}"
    yield "GPUs"
    yield from _gpu_lines(plan.gpus)


def _gpu_lines(steps: Sequence[GpuStep]) -> Iterator[str]:
    width = max((len(step.step) for step in steps), default=0)
    for step in steps:
        amount = f"{step.least:g}" if step.least == step.most else f"{step.least:g} to {step.most:g}"
        idle = step.used is not None and step.used < step.most
        yield f"  {step.step:{width}}  {amount}" + (f"; the run file uses {step.used:g} at most" if idle else "")
