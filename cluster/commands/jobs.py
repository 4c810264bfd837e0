"""The commands for clusters: up, down, submit, logs, stop. `raystill status --address` is in cli.py, its table here."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from cluster.commands.options import replace_option, run_options, set_option

if TYPE_CHECKING:
    from cluster.jobs.client import Job, Jobs

_STAGES = click.Choice(["label", "train", "evaluate", "compare", "run"])
_USER_ERROR = 2
_LISTED = 5
_OWN_OPTIONS = {
    "CPU": "--driver-cpus asks for CPUs.",
    "GPU": "A driver needs none: its stages ask for theirs.",
    "memory": "Name a custom resource of nodes that have enough of it.",
    "object_store_memory": "Name a custom resource of nodes that have enough of it.",
}
"""What Ray refuses among custom resources, and what to do in place of it."""
address_option = click.option(
    "--address", metavar="URL", required=True, help="The head's dashboard, such as http://HEAD:8265."
)
stage_option = click.option("--stage", type=_STAGES, help="Where JOB is a run file: which of its stages.")


@click.command()
@click.argument("run_file", metavar="RUN")
@click.option("--stage", type=_STAGES, required=True, help="Which command the job runs.")
@address_option
@click.option("--no-wait", is_flag=True, help="Return once it is submitted; `raystill logs -f` follows it.")
@click.option(
    "--shared", multiple=True, metavar="FOLDER", help="All nodes have this folder under the same path: runs may use it."
)
@click.option("--installed", is_flag=True, help="The cluster's image has Raystill: send the run file, not the code.")
@click.option(
    "--retries", metavar="N", default=0, show_default=True, type=click.IntRange(0, 100),
    help="Submit again so often where it fails; each attempt goes on from what is finished. This command does it: it must stay.",
)  # fmt: skip
@click.option("--driver-cpus", metavar="N", default=0.0, help="CPUs of the driver; 0: it runs on the head node.")
@click.option(
    "--driver-resource", "resources", multiple=True, metavar="NAME=N", help="A custom resource that its node must have."
)
@click.option(
    "--env", "variables", multiple=True, metavar="NAME[=VALUE]",
    help="A variable of the job, this shell's own where no value is given. The dashboard shows it: keys belong into the image's Secret.",
)  # fmt: skip
@replace_option
@run_options
def submit(
    run_file: str, stage: str, address: str, no_wait: bool, shared: tuple[str, ...], installed: bool, retries: int,
    driver_cpus: float, resources: tuple[str, ...], variables: tuple[str, ...], replace: bool, overrides: tuple[str, ...],
    as_json: bool, verbose: bool,
) -> None:  # fmt: skip
    """A stage as a job of a Ray cluster: sends run file and code, shows the log, ends with the job's exit code.

    Submitted again while it runs, it attaches to the job; after its end, it goes on from what is finished.

    \b
    Examples:
      raystill submit svamp.yaml --stage label --address http://127.0.0.1:8265
      raystill submit svamp.yaml --stage run --address http://head:8265 --no-wait --set output=s3://bucket/svamp
    """
    from cluster.jobs.client import Driver, JobFailedError, Jobs
    from pipelines.config.load import load_run

    _check_options(stage, no_wait=no_wait, retries=retries, replace=replace, driver_cpus=driver_cpus)
    run = load_run(run_file, overrides)
    driver = Driver(driver_cpus, _amounts(resources), _environment(variables), installed)
    command = [*(["--replace"] if replace else []), *(["--verbose"] if verbose else [])]
    jobs = Jobs(address)
    no_place = jobs.no_place(driver)
    for attempt in range(retries + 1):
        job, new = jobs.submit(run, stage, driver, shared=shared, command=command)
        click.echo(f"{'submitted' if new else 'attached to'} {job.id}", err=True)
        if new and no_place:
            click.echo(f"warning: {no_place}", err=True)
        if no_wait:
            break
        with _left_alone(jobs, job.id):
            job = jobs.follow(job.id, sys.stderr if as_json else sys.stdout)
        if job.status == "SUCCEEDED" or job.status == "STOPPED" or job.exit_code == _USER_ERROR:
            break
        if attempt < retries:
            click.echo(f"{job.id} failed ({_why(job)}); attempt {attempt + 2} of {retries + 1}", err=True)
    if as_json:
        print(json.dumps(_described(job), ensure_ascii=False, indent=2))
    if job.ended and job.status != "SUCCEEDED":
        message = f"{job.id} {job.status.lower()} ({_why(job)}). The same command goes on from what is finished."
        raise JobFailedError(message, job.exit_code or 1)


@click.command()
@click.argument("job", metavar="JOB")
@address_option
@stage_option
@set_option
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended; ends with its exit code.")
def logs(job: str, address: str, stage: str | None, overrides: tuple[str, ...], follow: bool) -> None:
    """What a job has written. JOB is its id, or a run file with --stage, and with the --set of its output.

    \b
    Examples:
      raystill logs svamp.yaml --stage label --address http://head:8265 -f
      raystill logs svamp.yaml --stage label --address http://head:8265 --set output=s3://bucket/svamp
    """
    from cluster.jobs.client import JobFailedError, Jobs

    jobs = Jobs(address)
    job_id = _job_id(jobs, job, stage, overrides)
    if not follow:
        jobs.job(job_id)
        click.echo(jobs.logs(job_id), nl=False)
        return
    with _left_alone(jobs, job_id):
        ended = jobs.follow(job_id, sys.stdout)
    if ended.status != "SUCCEEDED":
        raise JobFailedError(f"{job_id} {ended.status.lower()} ({_why(ended)}).", ended.exit_code or 1)


@click.command()
@click.argument("job", metavar="JOB")
@address_option
@stage_option
@set_option
@click.option("--json", "as_json", is_flag=True, help="Print the job as one JSON object on stdout.")
def stop(job: str, address: str, stage: str | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """End a job. What it has finished stays; submitting again goes on from there.

    \b
    Example:
      raystill stop raystill-svamp-label-1f2e3d4c --address http://head:8265
    """
    from cluster.jobs.client import Jobs

    jobs = Jobs(address)
    ended = jobs.stop(_job_id(jobs, job, stage, overrides))
    if as_json:
        print(json.dumps(_described(ended), ensure_ascii=False, indent=2))
    else:
        click.echo(f"{ended.id}: {ended.status.lower()}")


def print_jobs(address: str, run: str | None = None, *, as_json: bool) -> None:
    """The jobs of a cluster on stdout, those of one run where its name is given."""
    from rich.console import Console
    from rich.table import Table

    from cluster.jobs.client import Jobs

    found = [job for job in Jobs(address).of() if run is None or job.metadata.get("run") == run]
    if as_json:
        print(json.dumps({"jobs": [_described(job) for job in found]}, ensure_ascii=False, indent=2))
        return
    table = Table(pad_edge=False)
    for column in ("job", "run", "stage", "status", "time", "output"):
        table.add_column(column, overflow="fold")
    for job in found:
        table.add_row(job.id, *(job.metadata.get(key, "") for key in ("run", "raystill")), job.status.lower(), _time(job),
                      job.metadata.get("output", ""))  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def _check_options(stage: str, *, no_wait: bool, retries: int, replace: bool, driver_cpus: float) -> None:
    """Raises UserError where an option would have no effect, or fail in the job."""
    from pipelines.errors import UserError

    if not 0 <= driver_cpus < math.inf:
        raise UserError(f"--driver-cpus {driver_cpus}", "it is no number of CPUs", "Write it like 1, or leave it out.")
    if no_wait and retries:
        rule = "it has no effect with --no-wait: this command submits again what has failed, and must stay for it"
        raise UserError(f"--retries {retries}", rule, "Leave one of them out.")
    if replace and stage == "compare":
        remedy = "Leave it out, or set another output."
        raise UserError("--replace", "`raystill compare` does not take it: a grid keeps what is finished", remedy)


@contextmanager
def _left_alone(jobs: Jobs, job_id: str) -> Iterator[None]:
    """Ctrl-C ends the command and not the job: says so."""
    from cluster.jobs.client import LeftError

    try:
        yield
    except KeyboardInterrupt:
        place = f"{job_id} --address {jobs.address}"
        message = (
            f"Interrupted. The job runs on: `raystill logs {place} -f` follows it, `raystill stop {place}` ends it."
        )
        raise LeftError(message) from None


def _job_id(jobs: Jobs, job: str, stage: str | None, overrides: Sequence[str]) -> str:
    """The job that is meant: by id, or the last attempt of a run's stage. Raises UserError where there is none."""
    from cluster.jobs.client import job_name
    from pipelines.config.load import load_run
    from pipelines.errors import UserError
    from pipelines.storage.filesystems import shown

    if not job.endswith((".yaml", ".yml")):
        if overrides:
            raise UserError(f"--set {overrides[0]}", "it has no effect on the id of a job", "Leave it out.")
        if stage is not None:
            rule = "it has no effect on the id of a job, which is of one stage"
            raise UserError(f"--stage {stage}", rule, "Leave it out, or name the run file.")
        return job
    if stage is None:
        raise UserError("--stage", f"{job} is a run file, which has several", "Say which: --stage label.")
    run = load_run(job, tuple(overrides))
    if attempts := jobs.of(job_name(run, stage)):
        return attempts[-1].id
    what, rule = f"{job}, stage {stage}", f"with output {shown(run.output)} it was not submitted to this cluster"
    same = [job for job in jobs.of() if (job.metadata.get("run"), job.metadata.get("raystill")) == (run.name, stage)]
    if same:
        there = ", ".join(f"{job.id} ({job.metadata.get('output')})" for job in same[-_LISTED:])
        remedy = f"Jobs of run {run.name} there: {there}. Name one of them, or give the same --set output=... as it was submitted with."
        raise UserError(what, rule, remedy)
    raise UserError(what, rule, f"`raystill submit {job} --stage {stage} --address {jobs.address}` does that.")


def _amounts(given: Sequence[str]) -> dict[str, float]:
    """{"head": 1.0} of ["head=1"]. Raises UserError where Ray would not take one."""
    from pipelines.errors import UserError

    found = {}
    for one in given:
        name, _, amount = one.partition("=")
        try:
            found[name] = float(amount)
        except ValueError as error:
            raise UserError(f"--driver-resource {one}", "it is not NAME=NUMBER", "Write it like head=1.") from error
        if not name or not 0 < found[name] < math.inf:
            raise UserError(f"--driver-resource {one}", "it is not NAME=NUMBER above 0", "Write it like head=1.")
        if name in _OWN_OPTIONS:
            raise UserError(f"--driver-resource {one}", f"{name} is no custom resource", _OWN_OPTIONS[name])
    return found


def _environment(given: Sequence[str]) -> dict[str, str]:
    """Variables of the job. Raises UserError where one has no value, here or there."""
    from pipelines.errors import UserError

    found = {}
    for one in given:
        name, separator, value = one.partition("=")
        if not separator and name not in os.environ:
            raise UserError(
                f"--env {one}", "this shell has no such variable", f"Write --env {name}=VALUE, or export it."
            )
        found[name] = value if separator else os.environ[name]
    return found


def _why(job: Job) -> str:
    if job.exit_code is not None:
        return f"exit code {job.exit_code}"
    return job.message.strip().partition("\n")[0] or "no reason is given"


def _time(job: Job) -> str:
    from pipelines.runtime.durations import duration

    return "" if job.started_s is None else duration((job.ended_s or time.time()) - job.started_s)


def _described(job: Job) -> dict[str, Any]:
    return {
        "job": job.id, "status": job.status.lower(), "exit_code": job.exit_code, "message": job.message, "run": job.metadata.get("run"),
        "stage": job.metadata.get("raystill"), "output": job.metadata.get("output"), "started_s": job.started_s, "ended_s": job.ended_s,
    }  # fmt: skip
