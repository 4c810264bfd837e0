"""The commands for clusters: up, down, submit, logs, stop. `raystill status --address` is in cli.py, its table here."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from cluster.options import replace_option, run_options

if TYPE_CHECKING:
    from cluster.jobs import Job, Jobs

_STAGES = click.Choice(["label", "train", "evaluate", "compare", "run"])
_USER_ERROR = 2
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
    help="Submit again so often where it fails; each attempt goes on from what is finished.",
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
    from cluster.jobs import Driver, JobFailedError, Jobs
    from pipelines.run_file import load_run

    run = load_run(run_file, overrides)
    driver = Driver(driver_cpus, _amounts(resources), _environment(variables), installed)
    command = [*(["--replace"] if replace else []), *(["--verbose"] if verbose else [])]
    jobs = Jobs(address)
    for attempt in range(retries + 1):
        job, new = jobs.submit(run, stage, driver, shared=shared, command=command)
        click.echo(f"{'submitted' if new else 'attached to'} {job.id}", err=True)
        if no_wait:
            break
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
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended; ends with its exit code.")
def logs(job: str, address: str, stage: str | None, follow: bool) -> None:
    """What a job has written. JOB is its id, or a run file with --stage.

    \b
    Example:
      raystill logs svamp.yaml --stage label --address http://head:8265 -f
    """
    from cluster.jobs import JobFailedError, Jobs

    jobs = Jobs(address)
    job_id = _job_id(jobs, job, stage)
    if not follow:
        jobs.job(job_id)
        click.echo(jobs.logs(job_id), nl=False)
        return
    ended = jobs.follow(job_id, sys.stdout)
    if ended.status != "SUCCEEDED":
        raise JobFailedError(f"{job_id} {ended.status.lower()} ({_why(ended)}).", ended.exit_code or 1)


@click.command()
@click.argument("job", metavar="JOB")
@address_option
@stage_option
@click.option("--json", "as_json", is_flag=True, help="Print the job as one JSON object on stdout.")
def stop(job: str, address: str, stage: str | None, as_json: bool) -> None:
    """End a job. What it has finished stays; submitting again goes on from there.

    \b
    Example:
      raystill stop raystill-svamp-label-1f2e3d4c --address http://head:8265
    """
    from cluster.jobs import Jobs

    jobs = Jobs(address)
    ended = jobs.stop(_job_id(jobs, job, stage))
    if as_json:
        print(json.dumps(_described(ended), ensure_ascii=False, indent=2))
    else:
        click.echo(f"{ended.id}: {ended.status.lower()}")


@click.command()
@click.option("--nodes", default=3, show_default=True, type=click.IntRange(1, 64), help="The head and the others.")
@click.option(
    "--cpus",
    default=8,
    show_default=True,
    type=click.IntRange(1),
    help="Of each node; they share this machine's cores.",
)
@click.option("--json", "as_json", is_flag=True, help="Print addresses and process ids as one JSON object.")
def up(nodes: int, cpus: int, as_json: bool) -> None:
    """A Ray cluster of several nodes on this machine, to try a run as on many.

    \b
    Example:
      raystill up --nodes 3
    """
    from cluster.local_cluster import print_up

    print_up(nodes, cpus, as_json=as_json)


@click.command()
def down() -> None:
    """End the cluster that `raystill up` started.

    \b
    Example:
      raystill down
    """
    from cluster.local_cluster import down as end

    click.echo("ended" if end() else "there is none")


def print_jobs(address: str, name: str = "", *, as_json: bool) -> None:
    """The jobs of a cluster on stdout, those of one run where its job name is given."""
    from rich.console import Console
    from rich.table import Table

    from cluster.jobs import Jobs

    found = [job for job in Jobs(address).of() if name in job.id]
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


def _job_id(jobs: Jobs, job: str, stage: str | None) -> str:
    """The job that is meant: by id, or the last attempt of a run's stage. Raises UserError where there is none."""
    from cluster.jobs import job_name
    from pipelines.errors import UserError
    from pipelines.run_file import load_run

    if not job.endswith((".yaml", ".yml")):
        return job
    if stage is None:
        raise UserError("--stage", f"{job} is a run file, which has several", "Say which: --stage label.")
    attempts = jobs.of(job_name(load_run(job), stage))
    if not attempts:
        raise UserError(
            f"{job}, stage {stage}", "it was not submitted to this cluster", f"`raystill submit {job} --stage {stage}`."
        )
    return attempts[-1].id


def _amounts(given: Sequence[str]) -> dict[str, float]:
    """{"head": 1.0} of ["head=1"]. Raises UserError where one is malformed."""
    from pipelines.errors import UserError

    found = {}
    for one in given:
        name, _, amount = one.partition("=")
        try:
            found[name] = float(amount)
        except ValueError as error:
            raise UserError(f"--driver-resource {one}", "it is not NAME=NUMBER", "Write it like head=1.") from error
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
    from pipelines.progress import duration

    return "" if job.started_s is None else duration((job.ended_s or time.time()) - job.started_s)


def _described(job: Job) -> dict[str, Any]:
    return {
        "job": job.id, "status": job.status.lower(), "exit_code": job.exit_code, "message": job.message, "run": job.metadata.get("run"),
        "stage": job.metadata.get("raystill"), "output": job.metadata.get("output"), "started_s": job.started_s, "ended_s": job.ended_s,
    }  # fmt: skip
