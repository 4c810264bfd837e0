"""Create a stage's job, or find the one that runs."""

from __future__ import annotations

import time

from cluster.kubernetes.api import Api, ApiError
from cluster.kubernetes.checks import refusal
from cluster.kubernetes.job import StageJob
from cluster.kubernetes.objects import CONFIG_MAP, RAYJOB, Object, name_of
from cluster.kubernetes.state import JobState
from cluster.session.connection import UnreachableError
from pipelines.errors import StageFailedError, UserError
from pipelines.runtime.durations import duration

POLL_S = 2.0
_DELETED_S = 120.0


def submit(api: Api, job: StageJob) -> tuple[JobState, bool]:
    """Create the job, or attach to the one of this name that has not ended. An ended one is replaced.

    Returns:
        The job, and whether it is new.

    Raises:
        UserError: the running job does something else, or the server refuses this one. Nothing of it is left.
    """
    while True:
        found = api.get(RAYJOB, job.namespace, job.name)
        if found is None:
            if created := _create(api, job):
                return JobState.of(created), True
            continue  # another process was faster
        state = JobState.of(found)
        if not state.has_ended and not state.deleting:
            return _attach(state, job), False
        if not state.deleting:
            delete_job(api, state)
        wait_deleted(api, state)


def find_running(api: Api, job: StageJob) -> JobState | None:
    """The job of this name that has not ended. Raises UserError if it does something else."""
    found = api.get(RAYJOB, job.namespace, job.name)
    state = JobState.of(found) if found is not None else None
    return _attach(state, job) if state and not state.has_ended and not state.deleting else None


def delete_job(api: Api, job: JobState) -> None:
    """Delete this job, and no other that has taken its name meanwhile."""
    try:
        api.delete(RAYJOB, job.namespace, job.job, uid=job.uid)
    except ApiError as error:
        if error.code not in (404, 409):
            raise


def wait_deleted(api: Api, job: JobState) -> None:
    """Wait until no object has this job's uid. Raises StageFailedError after two minutes."""
    until = time.monotonic() + _DELETED_S
    while (found := api.get(RAYJOB, job.namespace, job.job)) is not None and JobState.of(found).deleting:
        if found["metadata"].get("uid") != job.uid:
            return
        if time.monotonic() >= until:
            left = ", ".join(found["metadata"].get("finalizers") or []) or "none"
            raise StageFailedError(
                f"RayJob {job.job} is still being deleted after {duration(_DELETED_S)}; finalizers left: {left}. The operator removes "
                f"them: check that it runs and watches namespace {job.namespace}."
            )
        time.sleep(POLL_S)


def take_back(api: Api, job: JobState) -> None:
    """Delete a job that cannot start. Its ConfigMap follows it."""
    delete_job(api, job)
    wait_deleted(api, job)


def _create(api: Api, job: StageJob) -> Object | None:
    """Create ConfigMap and job. None if the name is taken. What was created is deleted if the rest fails or is interrupted."""
    try:
        config_map = api.create(CONFIG_MAP, job.namespace, job.config_map)
    except ApiError as error:
        raise refusal(error, CONFIG_MAP, job) from error
    name, created, complete = name_of(config_map), None, False
    try:
        created = api.create(RAYJOB, job.namespace, job.mounting(name))
        _hand_over(api, job, name, created)
        complete = True
    except UnreachableError:
        complete = True  # the job may exist, and needs its ConfigMap
        raise
    except ApiError as error:
        if error.reason != "AlreadyExists":
            raise refusal(error, RAYJOB, job) from error
    finally:
        if not complete:
            if created is not None:
                delete_job(api, JobState.of(created))
            api.delete(CONFIG_MAP, job.namespace, name)
    return created


def _hand_over(api: Api, job: StageJob, config_map: str, created: Object) -> None:
    """Make the job the owner of its ConfigMap: Kubernetes deletes it with the job."""
    owner = {"apiVersion": RAYJOB.api_version, "kind": RAYJOB.name, "name": job.name, "uid": created["metadata"]["uid"]}
    api.patch(CONFIG_MAP, job.namespace, config_map, {"metadata": {"ownerReferences": [owner]}})


def _attach(state: JobState, job: StageJob) -> JobState:
    if state.settings != job.settings:
        remedy = (
            f"Follow it (`raystill k8s logs {state.job} -n {state.namespace} -f`), stop it (`raystill k8s stop {state.job} "
            f"-n {state.namespace}`), or set another output."
        )
        raise UserError(f"job {state.job}", "it runs with other settings", remedy)
    return state
