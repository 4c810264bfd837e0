"""What `raystill k8s run` would create, and the GPUs that each step needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from cluster.kubernetes.api import Api
from cluster.kubernetes.endpoint_gpus import endpoint_steps
from cluster.kubernetes.job import StageJob
from cluster.kubernetes.objects import HEAD, RAYJOB, RAYSERVICE, Object, groups, named
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


def endpoint_gpus(objects: Sequence[Object]) -> list[GpuStep]:
    """The GPUs of the overlay's endpoint, at rest and during each change; none if it has no endpoint."""
    return [
        GpuStep(step=f"endpoint, {step.name}", least=step.least, most=step.most, used=None)
        for service in named(objects, RAYSERVICE.name)
        for step in endpoint_steps(service)
    ]


def _gpus(found: Object) -> tuple[float, float]:
    """GPUs of an object's cluster at its smallest and largest."""
    clusters = list(groups(found))
    return sum(group.least * group.gpus for group in clusters), sum(group.most * group.gpus for group in clusters)


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
