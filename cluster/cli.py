"""The command `raystill`. Each command imports its code when it runs, so that `--help` is fast, and passes its options to it by name."""

from __future__ import annotations

from typing import Any

import click

from cluster.commands.group import CommandGroup
from cluster.commands.jobs import logs, stop, submit
from cluster.commands.k8s import k8s
from cluster.commands.local import down, up
from cluster.commands.options import replace_option, run_options
from cluster.commands.stages import run_command


def _print_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from cluster.commands.version import version_text

        click.echo(version_text())
        context.exit()


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the versions of Raystill and of its parts.",
)
def main() -> None:
    """Distil a large language model into a small task student: label, train, evaluate, serve.

    \b
    Example, which needs neither a GPU nor a model hub:
      raystill quickstart
    """


@main.command()
@click.option("--output", help="Folder of the run file, corpus and artifacts.  [default: raystill-RECIPE]")
@click.option("--recipe", default="quickstart", show_default=True, type=click.Choice(["quickstart", "quickstart-nli"]))
@run_options
def quickstart(output: str | None, recipe: str, overrides: tuple[str, ...], as_json: bool, verbose: bool) -> None:
    """Run the whole chain on shipped data.

    Takes minutes on this machine, and ends with an answer from the endpoint.

    \b
    Example:
      raystill quickstart --output try-it
    """
    from cluster.commands.quickstart import run_quickstart

    run_quickstart(output or f"raystill-{recipe}", recipe, overrides, as_json=as_json, verbose=verbose)


@main.command()
@click.argument("corpus", metavar="CORPUS", required=False)
@click.option("--output", metavar="FILE", help="The run file to write.  [default: NAME.yaml, after the corpus]")
@click.option(
    "--task", "own_task", is_flag=True, help="Write a task file and its test, too; without CORPUS, only these."
)
@click.option("--json", "as_json", is_flag=True, help="Print what was found as one JSON object on stdout.")
def init(**options: Any) -> None:
    """Write a run file for your corpus.

    Looks at format, encoding, columns, gold labels and ids, guesses the task, and writes a commented run file for a small teacher. It
    overwrites nothing. CORPUS is a file, folder, glob or URI.

    \b
    Examples:
      raystill init tickets.csv
      raystill init 'data/*.jsonl' --output mail.yaml --task
    """
    from cluster.commands.init import run_init

    run_init(**options)


@main.command()
@click.argument("run_file", metavar="RUN")
@click.option("--prompts", default=2, show_default=True, type=click.IntRange(0, 100), help="Rendered prompts to print.")
@click.option(
    "--calibrate",
    "calibrate_rows",
    metavar="N",
    type=click.IntRange(1),
    help="Label N rows and measure the rate. Only answers of an endpoint are kept.",
)
@click.option("--deadline", metavar="TIME", help="Compute the replicas and GPUs that finish in 90min, 24h or 3d.")
@click.option(
    "--config", "with_config", is_flag=True, help="Print the resolved run file, too: every key with its value."
)
@run_options
def plan(**options: Any) -> None:
    """Estimate what a run takes, and start nothing.

    Prints the first prompts, tokens, time, GPU-hours, storage and cost of each stage, and what exists already.

    \b
    Examples:
      raystill plan svamp.yaml --calibrate 200
      raystill plan svamp.yaml --deadline 24h
    """
    from cluster.commands.plan import run_plan

    run_plan(**options)


@main.command()
@click.argument("run_file", metavar="RUN", required=False)
@click.option("--address", metavar="URL", help="List the jobs of the cluster with this dashboard instead.")
@click.option("--follow", is_flag=True, help="Print the state until the work ends.")
@run_options
def status(verbose: bool, **options: Any) -> None:
    """Show the state of each stage.

    Reads the run's folder, so it also shows work of another shell or machine. With --address: the jobs of a cluster, only those of RUN if
    given.

    \b
    Examples:
      raystill status svamp.yaml --follow
      raystill status --address http://head:8265
    """
    del verbose  # nothing that logs is started
    from cluster.commands.status import show_status

    show_status(**options)


def _stage_command(name: str, text: str) -> None:
    @main.command(name, help=f"{text}\n\n\b\nExample:\n  raystill {name} svamp.yaml --set corpus.limit=100")
    @click.argument("run_file", metavar="RUN")
    @replace_option
    @run_options
    def command(**options: Any) -> None:
        from pipelines.run import STAGES

        run_command(stages=tuple(stage for stage in STAGES if name in (stage, "run")), **options)


@main.command()
@click.argument("run_file", metavar="RUN")
@click.option("--check", is_flag=True, help="First read every finished file and compare its hash.")
@replace_option
@run_options
def label(run_file: str, check: bool, overrides: tuple[str, ...], **options: Any) -> None:
    """Label the corpus with the teacher.

    The teacher answers each example with a rationale and a label. Finished rows are kept. Rows of a lost or
    damaged file are labelled again.

    \b
    Examples:
      raystill label svamp.yaml --set corpus.limit=100
      raystill label svamp.yaml --check
    """
    if check:
        from cluster.commands.stages import check_label_files

        check_label_files(run_file, overrides)
    run_command(run_file, ("label",), overrides=overrides, **options)


_stage_command(
    "train", "Train the student on the labels.\n\nRuns Ray Train with DeepSpeed, and resumes from checkpoints."
)


@main.command()
@click.argument("run_file", metavar="RUN")
@click.option(
    "--baseline",
    metavar="REPORT",
    help="Compare with an earlier report of `raystill evaluate`: its folder or report.json.",
)
@replace_option
@run_options
def evaluate(**options: Any) -> None:
    """Score the student on held-out examples.

    The report shows it beside the untrained student, the teacher and the majority label.

    \b
    Example:
      raystill evaluate svamp.yaml --baseline runs/svamp-before/report
    """
    run_command(stages=("evaluate",), **options)


_stage_command("run", "Label, train and evaluate.\n\nFinished stages are reused.")


@main.command()
@click.argument("run_file", metavar="RUN")
@run_options
def compare(**options: Any) -> None:
    """Compare methods on a grid of students.

    Trains and scores methods x fractions of the labels x students x seeds, and writes one report with curves. Finished cells are reused,
    and the report is updated after each cell.

    \b
    Example:
      raystill compare svamp.yaml --set compare.seeds='[0]' --set compare.fractions='[0.25,1.0]'
    """
    from cluster.commands.compare import run_comparison

    run_comparison(**options)


@main.command()
@click.argument("arguments", nargs=-1, required=True, metavar="STUDENT...")
@click.option("--run", "run_file", metavar="RUN", help="Use the serving section of this run file.")
@click.option(
    "--split",
    multiple=True,
    metavar="VERSION=PERCENT",
    help="Send this percentage of the name's requests to this version.",
)
@click.option(
    "--detach",
    is_flag=True,
    help="Return once the endpoint runs on RAY_ADDRESS. `serve shutdown` ends it.",
)
@click.option(
    "--print-config", is_flag=True, help="Print the config for `serve deploy` or a RayService, and start nothing."
)
@run_options
def serve(**options: Any) -> None:
    """Serve student folders as an endpoint.

    STUDENT is a student folder, NAME=FOLDER, or NAME@VERSION=FOLDER. Ctrl-C or SIGTERM ends the endpoint. On a cluster (RAY_ADDRESS) a
    running endpoint takes the new students and shares without downtime: the same command promotes a version or rolls it back.

    \b
    Examples:
      raystill serve runs/svamp/student --set serving.port=8001
      raystill serve svamp@old=runs/a/student svamp@new=runs/b/student --split new=10 --detach
      raystill serve svamp=s3://bucket/svamp/student --run svamp.yaml --print-config > serve.yaml
    """
    from cluster.commands.serve import run_endpoint

    run_endpoint(**options)


@main.command()
@click.argument("name", metavar="NAME")
@click.option("--file", metavar="FILE", help="Add the key to this file. Without it, print the line to add.")
@click.option(
    "--requests-per-minute",
    metavar="N",
    type=click.IntRange(1, 9_999_999),
    help="Limit of this key.  [default: the run file's serving.keys]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the key as one JSON object on stdout.")
def key(**options: Any) -> None:
    """Create an API key for the endpoint.

    Prints the key once; the file of `serving.keys.file` holds only its hash. A running endpoint accepts the key within about a second. To
    revoke it, remove its line from the file.

    \b
    Example:
      raystill key shop --file keys.txt --requests-per-minute 600
    """
    from cluster.commands.key import make_key

    make_key(**options)


for _command in (up, down, submit, logs, stop, k8s):
    main.add_command(_command)
