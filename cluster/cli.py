"""The command `raystill`. Light: a stage's code is imported inside the command that runs it."""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import click

from cluster.commands.jobs import logs, print_jobs, stop, submit
from cluster.commands.local import down, up
from cluster.commands.options import replace_option, run_options
from cluster.commands.stages import run_command


class _Group(click.Group):
    """Turns the errors that we understand into one message and their exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        from pipelines.errors import RaystillError

        try:
            return super().invoke(ctx)
        except RaystillError as error:
            _fail(str(error), error.exit_code)
        except KeyboardInterrupt:
            _fail("Interrupted. Finished work is kept; the same command goes on.", 130)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="raystill")
def main() -> None:
    """Distil a large language model into a small task student: label, train, evaluate, serve.

    \b
    Example, without a GPU and without a model hub:
      raystill quickstart
    """


@main.command()
@click.option("--output", help="Folder for the run file, corpus and artifacts.  [default: raystill-RECIPE]")
@click.option("--recipe", default="quickstart", show_default=True, type=click.Choice(["quickstart", "quickstart-nli"]))
@run_options
def quickstart(output: str | None, recipe: str, overrides: tuple[str, ...], as_json: bool, verbose: bool) -> None:
    """The whole chain on this machine, on shipped data, in minutes.

    \b
    Example:
      raystill quickstart --output try-it
    """
    from cluster.commands.quickstart import run_quickstart

    run_quickstart(output or f"raystill-{recipe}", recipe, overrides, as_json=as_json, verbose=verbose)


@main.command()
@click.argument("run_file", metavar="RUN")
@click.option(
    "--prompts", default=2, show_default=True, type=click.IntRange(0, 100), help="How many rendered prompts to show."
)
@click.option(
    "--calibrate",
    metavar="N",
    type=click.IntRange(1),
    help="Label N rows for real, and throw them away, to measure how fast it goes.",
)
@click.option("--deadline", metavar="TIME", help="How many replicas and GPUs end the run in it: 90min, 24h, 3d.")
@run_options
def plan(
    run_file: str, prompts: int, calibrate: int | None, deadline: str | None, overrides: tuple[str, ...], as_json: bool,
    verbose: bool,
) -> None:  # fmt: skip
    """What a run would do and take: config, first prompts, tokens, time, GPU-hours, storage, cost, what is finished already.

    \b
    Examples:
      raystill plan svamp.yaml --calibrate 200
      raystill plan svamp.yaml --deadline 24h
    """
    from cluster.planning.plan import make_plan
    from cluster.planning.plan_text import print_plan
    from pipelines.config.load import load_run

    run = load_run(run_file, overrides)
    deadline_s = _deadline_s(deadline) if deadline else None
    measured = None
    if calibrate is not None:
        from cluster.commands.stages import check_inputs
        from cluster.planning.calibrate import calibrate as measure

        check_inputs(run, ("label",))
        measured = measure(run, calibrate, verbose=verbose)
    print_plan(make_plan(run, prompts, measured, deadline_s), as_json=as_json)


def _deadline_s(text: str) -> float:
    from pipelines.errors import UserError
    from pipelines.runtime.durations import duration_s

    try:
        return duration_s(text)
    except ValueError as error:
        raise UserError(f"--deadline {text}", str(error), "Write 90min, 24h, 3d or 1d 12h.") from error


@main.command()
@click.argument("run_file", metavar="RUN", required=False)
@click.option(
    "--address", metavar="URL", help="The jobs of the cluster whose dashboard is there, in place of the run's folder."
)
@click.option("--follow", is_flag=True, help="Go on showing it until labelling has ended.")
@run_options
def status(
    run_file: str | None, address: str | None, follow: bool, overrides: tuple[str, ...], as_json: bool, verbose: bool
) -> None:
    """Where each stage of a run stands; also while another shell, or another machine, is working on it.

    With --address: the jobs of a cluster, those of RUN where one is given.

    \b
    Examples:
      raystill status svamp.yaml --follow
      raystill status --address http://head:8265
    """
    del verbose  # nothing is started that would log
    from cluster.commands.status import follow_status, print_status
    from pipelines.config.load import load_run
    from pipelines.errors import UserError

    run = load_run(run_file, overrides) if run_file else None
    if address is not None:
        if follow:
            raise UserError(
                "--follow", "it has no effect with --address", "`raystill logs JOB --address URL -f` follows a job."
            )
        if overrides and run is None:
            raise UserError(
                f"--set {overrides[0]}", "it has no effect without a run file", "Name one, or leave it out."
            )
        print_jobs(address, run.name if run else None, as_json=as_json)
        return
    if run is None or run_file is None:
        raise UserError("RUN", "it is missing", "Give a run file, or --address for the jobs of a cluster.")
    if follow:
        follow_status(run, run_file, as_json=as_json)
    else:
        print_status(run, run_file, as_json=as_json)


def _stage_command(name: str, text: str) -> None:
    @main.command(name, help=f"{text}\n\n\b\nExample:\n  raystill {name} svamp.yaml --set corpus.limit=100")
    @click.argument("run_file", metavar="RUN")
    @replace_option
    @run_options
    def command(run_file: str, replace: bool, overrides: tuple[str, ...], as_json: bool, verbose: bool) -> None:
        from pipelines.run import STAGES

        stages = STAGES if name == "run" else (name,)
        run_command(run_file, stages, replace=replace, overrides=overrides, as_json=as_json, verbose=verbose)


_stage_command("label", "Corpus -> labels: the teacher answers every example with label and rationale.")
_stage_command("train", "Labels -> student: Ray Train with DeepSpeed.")


@main.command()
@click.argument("run_file", metavar="RUN")
@click.option(
    "--baseline",
    metavar="REPORT",
    help="An earlier report of `raystill evaluate`, folder or report.json: show what changed since then.",
)
@replace_option
@run_options
def evaluate(
    run_file: str, baseline: str | None, replace: bool, overrides: tuple[str, ...], as_json: bool, verbose: bool
) -> None:
    """Student -> report: accuracy on held-out examples beside the alternatives.

    \b
    Example:
      raystill evaluate svamp.yaml --baseline runs/svamp-before/report
    """
    run_command(
        run_file,
        ("evaluate",),
        replace=replace,
        overrides=overrides,
        as_json=as_json,
        verbose=verbose,
        baseline=baseline,
    )


_stage_command("run", "label, train and evaluate, one after the other; finished stages are reused.")


@main.command()
@click.argument("run_file", metavar="RUN")
@run_options
def compare(run_file: str, overrides: tuple[str, ...], as_json: bool, verbose: bool) -> None:
    """A grid of methods, fractions of the labels, students and seeds -> one report with curves.

    Finished cells are never trained again; the report shows what there is while others run.

    \b
    Example:
      raystill compare svamp.yaml --set compare.seeds='[0]' --set compare.fractions='[0.25,1.0]'
    """
    from cluster.commands.compare import run_comparison

    run_comparison(run_file, overrides, as_json=as_json, verbose=verbose)


@main.command()
@click.argument("students", nargs=-1, required=True, metavar="STUDENT...")
@click.option("--run", "run_file", metavar="RUN", help="Take the serving section of this run file.")
@click.option(
    "--split",
    multiple=True,
    metavar="VERSION=PERCENT",
    help="That many in 100 requests for the name go to this version.",
)
@click.option(
    "--detach",
    is_flag=True,
    help="Return when the endpoint runs on RAY_ADDRESS, and leave it there; `serve shutdown` ends it.",
)
@click.option(
    "--print-config", is_flag=True, help="Print the file that `serve deploy` and a RayService take; start nothing."
)
@run_options
def serve(
    students: tuple[str, ...], run_file: str | None, split: tuple[str, ...], detach: bool, print_config: bool,
    overrides: tuple[str, ...], as_json: bool, verbose: bool,
) -> None:  # fmt: skip
    """One or several student folders as an endpoint; Ctrl-C or SIGTERM ends it.

    STUDENT is a student folder, NAME=FOLDER, or NAME@VERSION=FOLDER. On a cluster (RAY_ADDRESS) the endpoint that runs there takes the
    new students and shares while it answers: the same command promotes a version or rolls it back.

    \b
    Examples:
      raystill serve runs/svamp/student --set serving.port=8001
      raystill serve svamp@old=runs/a/student svamp@new=runs/b/student --split new=10 --detach
      raystill serve svamp=s3://bucket/svamp/student --set serving.host=0.0.0.0 --print-config > serve.yaml
    """
    from cluster.commands.serve import run_endpoint

    run_endpoint(
        students,
        run_file,
        overrides,
        split=split,
        print_config=print_config,
        detach=detach,
        as_json=as_json,
        verbose=verbose,
    )


@main.command()
@click.argument("name", metavar="NAME")
@click.option("--file", metavar="FILE", help="The key file to add it to; without one, the line for it is printed.")
@click.option(
    "--requests-per-minute",
    metavar="N",
    type=click.IntRange(1, 9_999_999),
    help="The key's own limit; without one, that of the run file's serving.keys.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the key as one JSON object on stdout.")
def key(name: str, file: str | None, requests_per_minute: int | None, as_json: bool) -> None:
    """A new key for the endpoint, printed once: the file that `serving.keys.file` names holds its hash only.

    An endpoint that runs takes the key within about a second. To revoke it, remove its line from the file.

    \b
    Example:
      raystill key shop --file keys.txt --requests-per-minute 600
    """
    from cluster.commands.key import make_key

    make_key(name, file, requests_per_minute, as_json=as_json)


for _command in (up, down, submit, logs, stop):
    main.add_command(_command)


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"raystill: {message}", err=True)
    sys.exit(code)
