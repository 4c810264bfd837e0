"""`raystill k8s run` and `plan`: check, submit, follow."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from pathlib import Path

import click

from cluster.jobs import following
from cluster.jobs.job import JobFailedError
from cluster.kubernetes.api import Api, connect
from cluster.kubernetes.checks import check_gpus, check_place, check_references, check_rights, check_students, dry_run
from cluster.kubernetes.follow import follow
from cluster.kubernetes.job import StageJob, stage_job
from cluster.kubernetes.objects import RAYSERVICE, Object, named
from cluster.kubernetes.overlay import find_overlay, render, stage_objects
from cluster.kubernetes.state import JobState
from cluster.kubernetes.submit import find_running, submit
from pipelines.checks import COMMANDS, Needs, check_run
from pipelines.config import RunConfig
from pipelines.config.load import load_run
from pipelines.errors import UserError


def run_stages(
    run_file: str, overrides: tuple[str, ...], *, overlay: str, stage: str, context: str | None, no_wait: bool, replace: bool, as_json: bool
) -> None:  # fmt: skip
    """Run a stage, or all in sequence, and print the summary.

    Raises:
        UserError: a check fails. Nothing is created, or what was created is deleted.
        JobFailedError: a job ended without its artifact.
    """
    if no_wait and len(COMMANDS[stage]) > 1:
        rule = "each stage needs the end of the previous one"
        raise UserError(f"--no-wait with --stage {stage}", rule, "Leave --no-wait out, or name one stage.")
    folder = find_overlay(overlay)
    run = load_run(run_file, overrides)
    check_run(run, COMMANDS[stage], Needs.RUN_FILE)
    jobs = _jobs(run, stage, folder, replace=replace)
    api = connect(context)
    check_rights(api, "run", jobs[0].namespace)
    check_place(api, jobs[0].namespace)
    ended: list[JobState] = []
    for job in jobs:
        state = find_running(api, job)
        new = False
        if state is None:
            check_references(api, job.rayjob, folder, job.overlay_map)
            dry_run(api, job)
            state, new = submit(api, job)
        click.echo(f"{'created' if new else 'attached to'} RayJob {state.job} in {state.namespace}", err=True)
        if not no_wait:
            with detach_on_interrupt(state):
                state = follow(api, state, sys.stderr if as_json else sys.stdout, new=new)
        ended.append(state)
        if no_wait or state.status != "succeeded":
            break
    for state in ended:
        click.echo(f"{state.job}: {state.status}, output {state.output}", err=True)
    if ended[-1].has_ended:
        check_succeeded(ended[-1], " Run the same command to resume.")
    if as_json:
        print_json({"jobs": [state.model_dump(mode="json") for state in ended]})


def print_plan(
    run_file: str, overrides: tuple[str, ...], *, overlay: str, stage: str, context: str | None, offline: bool, as_json: bool
) -> None:  # fmt: skip
    """Make the checks of `run`, and print what it would create. Raises UserError from the first check that fails."""
    from cluster.kubernetes.plan import KubernetesPlan, endpoint_steps, plan_lines, planned_job, stage_step

    folder = find_overlay(overlay)
    run = load_run(run_file, overrides)
    check_run(run, COMMANDS[stage], Needs.RUN_FILE)
    jobs, shared = _jobs(run, stage, folder), render(folder)
    api = None if offline else _checked(context, jobs, folder, shared)
    gpus = [stage_step(run, job) for job in jobs]
    gpus += [step for service in named(shared, RAYSERVICE.name) for step in endpoint_steps(service)]
    plan = KubernetesPlan(overlay=str(folder), run=run.name, jobs=[planned_job(api, job) for job in jobs], gpus=gpus)
    print(plan.model_dump_json(indent=2) if as_json else "\n".join(plan_lines(plan)))


def _jobs(run: RunConfig, stage: str, folder: Path, *, replace: bool = False) -> list[StageJob]:
    """The jobs of a command, after the checks that need no server."""
    jobs = []
    for one in COMMANDS[stage]:
        found = stage_objects(folder, one)
        check_gpus(run, one, found.rayjob, folder)
        jobs.append(stage_job(run, one, found, replace=replace))
    return jobs


def _checked(context: str | None, jobs: list[StageJob], folder: Path, shared: list[Object]) -> Api:
    api = connect(context)
    check_rights(api, "plan", jobs[0].namespace)
    check_place(api, jobs[0].namespace)
    for job in jobs:
        if find_running(api, job) is None:
            check_references(api, job.rayjob, folder, job.overlay_map)
            dry_run(api, job)
    check_students(api, shared)
    return api


def detach_on_interrupt(job: JobState) -> AbstractContextManager[None]:
    """Ctrl-C ends the command, not the job: say so."""
    at = f"{job.job} -n {job.namespace}"
    return following.detach_on_interrupt(f"raystill k8s logs {at} -f", f"raystill k8s stop {at}")


def check_succeeded(job: JobState, remedy: str = "") -> None:
    """Raise JobFailedError, with the driver's exit code, for a job that has not succeeded."""
    if job.status != "succeeded":
        raise JobFailedError(f"{job.job} {job.status} ({job.reason}).{remedy}", job.exit_code or 1)


def print_json(value: object) -> None:
    """Print one JSON object on stdout."""
    import json

    print(json.dumps(value, ensure_ascii=False, indent=2))
