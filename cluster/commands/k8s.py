"""`raystill k8s`: stages as RayJobs of a KubeRay cluster. Each command passes its options by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from cluster.commands.options import replace_option, set_option

Command = TypeVar("Command", bound=Callable[..., Any])
_STAGES = click.Choice(["label", "train", "evaluate", "run"])
_overlay_option = click.option(
    "--overlay", metavar="X", required=True, help="A folder with Kustomize overlays, or its name in k8s/overlays."
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object on stdout.")
_stage_option = click.option("--stage", type=_STAGES, help="Which stage, if JOB is a run file.")


def _cluster_options(command: Command) -> Command:
    option = click.option("--context", metavar="NAME", help="A context of the kubeconfig.  [default: its current one]")
    return option(command)


def _namespace_options(command: Command) -> Command:
    option = click.option(
        "-n", "--namespace", default="raystill", show_default=True, help="The namespace of the overlay."
    )
    return _cluster_options(option(command))


@click.group()
def k8s() -> None:
    """Run stages on a KubeRay cluster.

    Uses the kubeconfig as kubectl does: KUBECONFIG or ~/.kube/config, and a pod's account inside a cluster.

    \b
    Example:
      raystill k8s run svamp.yaml --overlay prod-gpu --stage label
    """


@k8s.command()
@click.argument("run_file", metavar="RUN")
@_overlay_option
@click.option("--stage", type=_STAGES, required=True, help="Which stage; `run` is all three in sequence.")
@click.option("--no-wait", is_flag=True, help="Return once the job exists; `raystill k8s logs -f` follows it.")
@replace_option
@set_option
@_cluster_options
@_json_option
def run(**options: Any) -> None:
    """Run a stage as a RayJob.

    Checks everything first, creates the job, prints what it waits for and its log, and exits with its exit code. While the job runs, the
    same command attaches to it. After its end, the same command resumes unfinished work. Ctrl-C leaves the job running.

    \b
    Examples:
      raystill k8s run svamp.yaml --overlay prod-gpu --stage label
      raystill k8s run svamp.yaml --overlay ./my-overlay --stage run --set output=s3://bucket/svamp
    """
    from cluster.commands.k8s_run import run_stages

    run_stages(**options)


@k8s.command()
@click.argument("run_file", metavar="RUN")
@_overlay_option
@click.option("--stage", type=_STAGES, default="run", show_default=True, help="Which stage; `run` is all three.")
@click.option("--offline", is_flag=True, help="Reach no API server: render, and compare run file and overlay.")
@set_option
@_cluster_options
@_json_option
def plan(**options: Any) -> None:
    """Show what `run` would create.

    Makes every check of `run`, and creates nothing. Prints jobs, pods, and the GPUs that each step needs.

    \b
    Example:
      raystill k8s plan svamp.yaml --overlay prod-gpu
    """
    from cluster.commands.k8s_run import print_plan

    print_plan(**options)


@k8s.command()
@_namespace_options
@_json_option
def status(**options: Any) -> None:
    """Show jobs and what they wait for.

    \b
    Example:
      raystill k8s status
    """
    from cluster.commands.k8s_jobs import print_status

    print_status(**options)


@k8s.command()
@click.argument("job", metavar="JOB")
@_stage_option
@set_option
@_namespace_options
@click.option("-f", "--follow", "to_end", is_flag=True, help="Follow until the job ends; exit with its exit code.")
@click.option("--json", "as_json", is_flag=True, help="Print the job as one JSON object on stdout, its log on stderr.")
def logs(**options: Any) -> None:
    """Print a job's log.

    JOB is a job's name, or a run file with --stage.

    \b
    Example:
      raystill k8s logs svamp.yaml --stage label -f
    """
    from cluster.commands.k8s_jobs import print_logs

    print_logs(**options)


@k8s.command()
@click.argument("job", metavar="JOB")
@_stage_option
@set_option
@_namespace_options
@_json_option
def stop(**options: Any) -> None:
    """Delete a job; finished work stays.

    JOB is a job's name, or a run file with --stage. Returns when its pods have ended. Run it again to resume.

    \b
    Example:
      raystill k8s stop svamp.yaml --stage label
    """
    from cluster.commands.k8s_jobs import stop_job

    stop_job(**options)


@k8s.command()
@_overlay_option
@click.option("--claims", is_flag=True, help="Also delete the volumes: models, corpora, labels, students.")
@_cluster_options
@_json_option
def down(**options: Any) -> None:
    """Delete an overlay's objects in order.

    Ends jobs, endpoint and clusters, waits for their pods, then deletes the rest. Volumes stay unless --claims is given. The operator must
    run: it removes the finalizers of Ray's objects.

    \b
    Example:
      raystill k8s down --overlay prod-gpu
    """
    from cluster.commands.k8s_jobs import take_overlay_down

    take_overlay_down(**options)
