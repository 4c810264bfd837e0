"""`raystill k8s status`, `logs`, `stop` and `down`."""

from __future__ import annotations

import sys

import click

from cluster.commands.k8s_run import check_succeeded, detach_on_interrupt, print_json
from cluster.kubernetes.api import Api, connect
from cluster.kubernetes.checks import Right, check_rights
from cluster.kubernetes.follow import follow, print_log, with_reasons
from cluster.kubernetes.job import job_name
from cluster.kubernetes.objects import CLAIM, OURS, RAYJOB, RAYSERVICE, name_of
from cluster.kubernetes.overlay import find_overlay, render
from cluster.kubernetes.state import JobState
from cluster.kubernetes.teardown import stop, take_down
from pipelines.config.load import load_run
from pipelines.errors import UserError

_TABLE_COLUMNS = 140


def print_status(namespace: str, context: str | None, *, as_json: bool) -> None:
    """Print the jobs of a namespace, what they wait for, and its endpoints."""
    api = connect(context)
    check_rights(api, "status", namespace)
    found = sorted((JobState.of(one) for one in api.list(RAYJOB, namespace, labels=OURS)), key=lambda job: job.created)
    jobs = [with_reasons(api, job) for job in found]
    services = {
        name_of(one): str((one.get("status") or {}).get("serviceStatus") or "not running")
        for one in api.list(RAYSERVICE, namespace, labels=OURS)
    }
    if as_json:
        print_json({"jobs": [job.model_dump(mode="json") for job in jobs], "endpoints": services})
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(pad_edge=False)
    for column in ("job", "run", "stage", "status", "created", "waits for"):
        table.add_column(column, overflow="fold")
    for job in jobs:
        reason = "; ".join(job.waiting_for) or (job.reason if job.status == "failed" else "")
        table.add_row(job.job, job.run, job.stage, job.status, job.created, reason)
    for name, state in services.items():
        table.add_row(name, "", "endpoint", state, "", "")
    Console(width=None if sys.stdout.isatty() else _TABLE_COLUMNS).print(table)


def print_logs(
    job: str, stage: str | None, overrides: tuple[str, ...], namespace: str, context: str | None, *, to_end: bool, as_json: bool
) -> None:  # fmt: skip
    """Print a job's log, to its end if requested. Raises JobFailedError if it ended badly."""
    api = connect(context)
    check_rights(api, "logs", namespace)
    state, out = _find(api, job, stage, overrides, namespace), sys.stderr if as_json else sys.stdout
    if to_end:
        with detach_on_interrupt(state):
            state = follow(api, state, out)
    else:
        print_log(api, state, out)
    if to_end:
        check_succeeded(state)
    if as_json:
        print_json(with_reasons(api, state).model_dump(mode="json"))


def stop_job(
    job: str, stage: str | None, overrides: tuple[str, ...], namespace: str, context: str | None, *, as_json: bool
) -> None:
    """Delete a job, and print that it is gone."""
    api = connect(context)
    check_rights(api, "stop", namespace)
    state = _find(api, job, stage, overrides, namespace)
    click.echo(f"stopping {state.job}; waiting for its pods", err=True)
    stop(api, state)
    if as_json:
        ended = state.status if state.has_ended else "stopped"
        print_json(state.model_dump(mode="json") | {"status": ended})
    else:
        click.echo(f"{state.job}: deleted")


def take_overlay_down(overlay: str, context: str | None, *, claims: bool, as_json: bool) -> None:
    """Delete an overlay's objects, and print which."""
    folder = find_overlay(overlay)
    objects = render(folder)
    namespaces = {found["metadata"]["namespace"] for found in objects if "namespace" in found["metadata"]}
    if len(namespaces) != 1:
        rule = f"its objects are in {len(namespaces)} namespaces ({', '.join(sorted(namespaces))}); an overlay has one"
        raise UserError(f"overlay {folder}", rule, "Set `namespace:` in its kustomization.yaml.")
    (namespace,) = namespaces
    api = connect(context)
    kinds = {kind for found in objects if (kind := api.kind(found["apiVersion"], found["kind"])) and kind.namespaced}
    if not claims:
        kinds.discard(CLAIM)
    check_rights(api, "down", namespace, [Right("delete", kind) for kind in sorted(kinds, key=str)])
    removed = take_down(api, objects, namespace, claims=claims, say=lambda line: click.echo(line, err=True))
    if as_json:
        print_json({"namespace": namespace, "deleted": removed.deleted, "kept": removed.kept})
        return
    for name in removed.deleted:
        click.echo(f"deleted {name}")
    for name in removed.kept:
        click.echo(f"kept {name}")
    if any(name.startswith("PersistentVolumeClaim/") for name in removed.kept):
        click.echo("Volumes hold models and artifacts; --claims deletes them.", err=True)


def _find(api: Api, job: str, stage: str | None, overrides: tuple[str, ...], namespace: str) -> JobState:
    """The job that the user named. Raises UserError if it does not exist."""
    if job.endswith((".yaml", ".yml")):
        if stage is None or stage == "run":
            raise UserError("--stage", f"{job} is a run file with several stages", "Name one: --stage label.")
        name = job_name(load_run(job, overrides), stage)
    else:
        name = job
        for option in (f"--set {overrides[0]}" if overrides else "", f"--stage {stage}" if stage else ""):
            if option:
                raise UserError(option, "has no effect with a job's name", "Leave it out, or give the run file.")
    found = api.get(RAYJOB, namespace, name) if name else None  # without a name the server lists all
    if found is None:
        names = [name_of(one) for one in api.list(RAYJOB, namespace, labels=OURS)]
        remedy = (
            f"Name one of {', '.join(names)}."
            if names
            else "List them: `raystill k8s status`; -n names another namespace."
        )
        raise UserError(f"job {name}", f"namespace {namespace} has no RayJob of this name", remedy)
    return JobState.of(found)
