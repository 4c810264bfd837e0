"""The commands for jobs of a cluster: submit, logs, stop, and the table of `raystill status --address`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import click

from cluster.commands.options import replace_option, run_options, set_option

if TYPE_CHECKING:
    from cluster.jobs.client import JobClient
    from cluster.jobs.job import Job

_STAGES = click.Choice(["label", "train", "evaluate", "compare", "run"])
_USER_ERROR = 2
_LISTED = 5
_TABLE_COLUMNS = 140
_address_option = click.option(
    "--address", metavar="URL", required=True, help="The head's dashboard, such as http://HEAD:8265."
)
_stage_option = click.option("--stage", type=_STAGES, help="Which stage, if JOB is a run file.")


@click.command()
@click.argument("run_file", metavar="RUN")
@click.option("--stage", type=_STAGES, required=True, help="Which command the job runs.")
@_address_option
@click.option("--no-wait", is_flag=True, help="Return once the job is submitted; `raystill logs -f` follows it.")
@click.option(
    "--shared",
    multiple=True,
    metavar="FOLDER",
    help="A folder that all nodes have under the same path; paths of the run may use it.",
)
@click.option("--installed", is_flag=True, help="The cluster's image contains Raystill: send no code.")
@click.option(
    "--retries", metavar="N", default=0, show_default=True, type=click.IntRange(0, 100),
    help="Resubmit up to N times on failure. Retries run in this process; keep it running.",
)  # fmt: skip
@click.option("--driver-cpus", metavar="N", default=0.0, help="CPUs of the driver. With 0 it runs on the head node.")
@click.option(
    "--driver-resource",
    "resources",
    multiple=True,
    metavar="NAME=N",
    help="A custom resource that the driver's node must have.",
)
@click.option(
    "--env", "variables", multiple=True, metavar="NAME[=VALUE]",
    help="A variable of the job; without a value, this shell's. The dashboard shows it: set keys on the nodes instead.",
)  # fmt: skip
@replace_option
@run_options
def submit(
    run_file: str, stage: str, address: str, no_wait: bool, shared: tuple[str, ...], installed: bool, retries: int,
    driver_cpus: float, resources: tuple[str, ...], variables: tuple[str, ...], replace: bool, overrides: tuple[str, ...],
    as_json: bool, verbose: bool,
) -> None:  # fmt: skip
    """Submit a stage as a job of a Ray cluster.

    Sends run file and code, prints the log, and exits with the job's exit code. While the job runs, the same command attaches to it.
    After its end, the same command resumes unfinished work.

    \b
    Examples:
      raystill submit svamp.yaml --stage label --address http://127.0.0.1:8265
      raystill submit svamp.yaml --stage run --address http://head:8265 --no-wait --set output=s3://bucket/svamp
    """
    from cluster.commands.job_options import check_options, parse_resources, parse_variables
    from cluster.jobs.client import JobClient
    from cluster.jobs.follow import follow
    from cluster.jobs.job import Driver
    from pipelines.checks import COMMANDS, Needs, check_run
    from pipelines.config.load import load_run

    check_options(stage, wait=not no_wait, retries=retries, replace=replace, driver_cpus=driver_cpus)
    run = load_run(run_file, overrides)
    check_run(run, COMMANDS[stage], Needs.RUN_FILE)
    env = parse_variables(variables, run.teacher.remote.key_variable)
    driver = Driver(driver_cpus, parse_resources(resources), env, installed)
    arguments = [*(["--replace"] if replace else []), *(["--verbose"] if verbose else [])]
    client = JobClient(address)
    problem = client.placement_problem(driver)
    for attempt in range(1, retries + 2):
        job, new = client.submit(run, stage, driver, shared=shared, arguments=arguments)
        click.echo(f"{'submitted' if new else 'attached to'} {job.id}", err=True)
        if new and problem:
            click.echo(f"warning: {problem}", err=True)
        if no_wait:
            break
        with _detach_on_interrupt(client, job.id):
            job = follow(client, job.id, sys.stderr if as_json else sys.stdout)
        if job.status in ("SUCCEEDED", "STOPPED") or job.exit_code == _USER_ERROR:
            break
        if attempt <= retries:
            click.echo(f"{job.id} failed ({job.reason}); attempt {attempt + 1} of {retries + 1}", err=True)
    if job.ended:
        _check_succeeded(job, " Run the same command to resume.")
    if as_json:
        _print_json(_job_json(job))


@click.command()
@click.argument("job", metavar="JOB")
@_address_option
@_stage_option
@set_option
@click.option("-f", "--follow", "to_end", is_flag=True, help="Follow until the job ends; exit with its exit code.")
@click.option("--json", "as_json", is_flag=True, help="Print the job as one JSON object on stdout, its log on stderr.")
def logs(
    job: str, address: str, stage: str | None, overrides: tuple[str, ...], to_end: bool, as_json: bool
) -> None:  # fmt: skip
    """Print a job's log.

    JOB is a job's id, or a run file with --stage and the --set of its output.

    \b
    Examples:
      raystill logs svamp.yaml --stage label --address http://head:8265 -f
      raystill logs svamp.yaml --stage label --address http://head:8265 --set output=s3://bucket/svamp
    """
    from cluster.jobs.client import JobClient
    from cluster.jobs.follow import follow

    client = JobClient(address)
    job_id = _job_id(client, job, stage, overrides)
    if to_end:
        with _detach_on_interrupt(client, job_id):
            found = follow(client, job_id, sys.stderr if as_json else sys.stdout)
    else:
        found = client.job(job_id)
        click.echo(client.logs(job_id), nl=False, err=as_json)
    if to_end:
        _check_succeeded(found)
    if as_json:
        _print_json(_job_json(found))


@click.command()
@click.argument("job", metavar="JOB")
@_address_option
@_stage_option
@set_option
@click.option("--json", "as_json", is_flag=True, help="Print the job as one JSON object on stdout.")
def stop(job: str, address: str, stage: str | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Stop a job; finished work stays.

    JOB is a job's id, or a run file with --stage and the --set of its output. Submit again to resume.

    \b
    Example:
      raystill stop raystill-svamp-label-1f2e3d4c --address http://head:8265
    """
    from cluster.jobs.client import JobClient

    client = JobClient(address)
    ended = client.stop(_job_id(client, job, stage, overrides))
    if as_json:
        _print_json(_job_json(ended))
    else:
        click.echo(f"{ended.id}: {ended.status.lower()}")


def print_jobs(address: str, run: str | None = None, *, as_json: bool) -> None:
    """Print the jobs of a cluster, or of one run."""
    from rich.console import Console
    from rich.table import Table

    from cluster.jobs.client import JobClient

    jobs = [job for job in JobClient(address).jobs() if run is None or job.metadata.get("run") == run]
    if as_json:
        _print_json({"jobs": [_job_json(job) for job in jobs]})
        return
    table = Table(pad_edge=False)
    for column in ("job", "run", "stage", "status", "time", "output"):
        table.add_column(column, overflow="fold")
    for job in jobs:
        run_name, stage, output = (job.metadata.get(key, "") for key in ("run", "raystill", "output"))
        table.add_row(job.id, run_name, stage, job.status.lower(), _run_time(job), output)
    Console(width=None if sys.stdout.isatty() else _TABLE_COLUMNS).print(table)


def _detach_on_interrupt(client: JobClient, job_id: str) -> AbstractContextManager[None]:
    from cluster.jobs.following import detach_on_interrupt

    job = f"{job_id} --address {client.address}"
    return detach_on_interrupt(f"raystill logs {job} -f", f"raystill stop {job}")


def _check_succeeded(job: Job, remedy: str = "") -> None:
    from cluster.jobs.job import JobFailedError

    if job.status != "SUCCEEDED":
        raise JobFailedError(f"{job.id} {job.status.lower()} ({job.reason}).{remedy}", job.exit_code or 1)


def _job_id(client: JobClient, job: str, stage: str | None, overrides: Sequence[str]) -> str:
    """The id that the user gave, or the last attempt of a run's stage. Raises UserError if it does not exist."""
    from cluster.jobs.job import job_name
    from pipelines.config.load import load_run
    from pipelines.errors import UserError
    from pipelines.storage.filesystems import shown

    if not job.endswith((".yaml", ".yml")):
        for option in (f"--set {overrides[0]}" if overrides else "", f"--stage {stage}" if stage else ""):
            if option:
                raise UserError(option, "has no effect with a job's id", "Leave it out, or give the run file.")
        return job
    if stage is None:
        raise UserError("--stage", f"{job} is a run file with several stages", "Name one: --stage label.")
    run = load_run(job, tuple(overrides))
    if attempts := client.jobs(job_name(run, stage)):
        return attempts[-1].id
    value, rule = f"{job}, stage {stage}", f"this cluster has no job of it with output {shown(run.output)}"
    others = [
        one for one in client.jobs() if (one.metadata.get("run"), one.metadata.get("raystill")) == (run.name, stage)
    ]
    if others:
        listed = ", ".join(f"{one.id} ({one.metadata.get('output')})" for one in others[-_LISTED:])
        remedy = f"Jobs of run {run.name}: {listed}. Name one, or give the --set output=... that it was submitted with."
        raise UserError(value, rule, remedy)
    raise UserError(value, rule, f"Submit it: `raystill submit {job} --stage {stage} --address {client.address}`.")


def _run_time(job: Job) -> str:
    from pipelines.runtime.durations import duration

    return "" if job.started_s is None else duration((job.ended_s or time.time()) - job.started_s)


def _job_json(job: Job) -> dict[str, object]:
    """The job for --json."""
    run, stage, output = (job.metadata.get(key) for key in ("run", "raystill", "output"))
    return {
        "job": job.id, "status": job.status.lower(), "exit_code": job.exit_code, "message": job.message, "run": run, "stage": stage,
        "output": output, "started_s": job.started_s, "ended_s": job.ended_s,
    }  # fmt: skip


def _print_json(value: object) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2))
