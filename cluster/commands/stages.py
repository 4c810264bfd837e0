"""`raystill label`, `train`, `evaluate`, `run`: check, start Ray, execute the stages, print the summary."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pipelines.config import RunConfig
    from pipelines.evaluate.model import Report
    from pipelines.run import Stage


def run_command(
    run_file: str, stages: Sequence[Stage], *, replace: bool, overrides: tuple[str, ...], as_json: bool, verbose: bool,
    baseline: str | None = None,
) -> None:  # fmt: skip
    """Execute stages in sequence on one Ray, and print their summaries. Raises RaystillError."""
    from cluster.commands.staged import StagedRun
    from cluster.commands.summary import print_summary
    from cluster.session.command_log import command_log
    from cluster.session.start import ray_session
    from pipelines.config.load import load_run
    from pipelines.evaluate.previous_report import read_earlier
    from pipelines.tasks import load_task, task_spec

    run = load_run(run_file, overrides)
    staged = StagedRun(run, stages)
    try:
        with command_log(stages[0] if len(stages) == 1 else "run", verbose=verbose):
            _check(run, stages)
            work = stages_to_execute(run, stages, replace=replace)
            earlier = (
                read_earlier(baseline, load_task(task_spec(run.task, run.task_options)).name) if baseline else None
            )
            # If everything is reused, nothing needs Ray, whose start and end take 10 s or more.
            session = ray_session(run, work, verbose=verbose) if work else nullcontext()
            with staged.shown(), session:
                staged.run(stages, replace=replace)
            if earlier:
                from pipelines.evaluate.stage import compare_with

                compare_with(run, earlier)
    except Exception:
        if staged.summaries and not as_json:  # what is finished shows why a later stage refuses it
            print_summary(staged.summaries, as_json=False)
        raise
    report = read_report(run) if "evaluate" in stages else None
    print_summary(
        staged.summaries, as_json=as_json, extra={"report": report.model_dump(mode="json")} if report else None
    )
    if report and not as_json:
        print_report(run, report)


def _check(run: RunConfig, stages: Sequence[Stage]) -> None:
    """Say what begins, and what of its input is wrong or odd. Raises UserError."""
    from pipelines.checks import check_run, warnings
    from pipelines.runtime.terminal import say
    from pipelines.storage.filesystems import shown

    say(f"{run.name}: {', '.join(stages)} -> {shown(run.output)}")
    check_run(run, stages)
    for warning in warnings(run, stages):
        say(f"warning: {warning}")


def check_label_files(run_file: str, overrides: tuple[str, ...]) -> None:
    """Read the files of a run's labels, and set damaged ones aside."""
    from pipelines.config.load import load_run
    from pipelines.label.output.check import set_damaged_aside
    from pipelines.storage.store import Store

    labels = Store(load_run(run_file, overrides).output).child("labels")
    checked, damaged = set_damaged_aside(labels)
    for found in damaged:
        click.echo(f"label: {labels.shown(found.name)}: {found.problem}.", err=True)
    click.echo(
        f"label: {checked:,} files checked, {len(damaged):,} damaged{', now in damaged/' if damaged else ''}", err=True
    )


def stages_to_execute(run: RunConfig, stages: Sequence[Stage], *, replace: bool = False) -> list[str]:
    """The stages that Ray needs nodes for: those whose artifact is not reused.

    Raises:
        UserError: an artifact of other settings is in the way.
    """
    from pipelines.reuse import Action
    from pipelines.run import decisions

    found = decisions(run, stages, replace=replace)
    for decision in found.values():
        decision.check()
    return [stage for stage, decision in found.items() if decision.action is not Action.REUSE]


def read_report(run: RunConfig) -> Report:
    """The run's finished report.json."""
    from pipelines.evaluate.model import Report
    from pipelines.scoring.model import read_report
    from pipelines.storage.store import Store

    return read_report(Store(run.output).child("report"), Report)


def print_report(run: RunConfig, report: Report) -> None:
    """Print the accuracy table on stdout, what it says in one sentence, and where its page is."""
    from rich.console import Console

    from pipelines.evaluate.terminal_table import report_table
    from pipelines.storage.filesystems import join, shown

    Console(width=None if sys.stdout.isatty() else 120).print(report_table(report))
    print(f"{report.headline}\nreport: {shown(join(run.output, 'report/report.html'))}")
