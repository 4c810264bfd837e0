"""`raystill compare RUN`: label if needed, then the grid, then its report."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from pipelines.config.load import load_run
from pipelines.runtime.terminal import say
from pipelines.storage.filesystems import shown
from pipelines.storage.store import Store

if TYPE_CHECKING:
    from pipelines.compare.model import ComparisonReport


def run_comparison(run_file: str, overrides: tuple[str, ...], *, as_json: bool, verbose: bool) -> None:
    """Label, train and score what is not finished, and print the table.

    Raises:
        UserError: the run fails a check.
        StageFailedError: a cell failed; the others are reported.
    """
    from cluster.commands.staged import StagedRun
    from cluster.commands.stages import stages_to_execute
    from cluster.commands.summary import print_summary, stage_summary
    from cluster.session.command_log import command_log
    from cluster.session.start import ray_session
    from pipelines.checks import COMMANDS, check_run, warnings
    from pipelines.compare.model import ComparisonReport
    from pipelines.compare.stage import compare, is_finished
    from pipelines.scoring.model import read_report

    run = load_run(run_file, overrides)
    with command_log("compare", verbose=verbose):
        say(f"{run.name}: compare -> {shown(run.output)}")
        check_run(run, COMMANDS["compare"])
        for warning in warnings(run, COMMANDS["compare"]):
            say(f"warning: {warning}")
        work = stages_to_execute(run, ("label",))
        if work or not is_finished(run):  # no nodes are requested for a finished comparison
            work = [*work, "train", "evaluate"]
        staged = StagedRun(run, ("label", "compare"))
        with staged.shown(), ray_session(run, work, verbose=verbose):
            staged.run(("label",))
            labelled = time.monotonic()
            with staged.step("compare"):
                manifest = compare(run)
    summaries = [*staged.summaries, stage_summary(run, "compare", manifest, time.monotonic() - labelled)]
    store = Store(run.output).child("compare")
    report = read_report(store, ComparisonReport)
    print_summary(summaries, as_json=as_json, extra={"report": report.model_dump(mode="json")})
    if not as_json:
        _print_report(report, store.shown("report.html"))


def _print_report(report: ComparisonReport, page: str) -> None:
    from rich.console import Console

    from pipelines.compare.terminal_table import comparison_table

    Console(width=None if sys.stdout.isatty() else 120).print(comparison_table(report))
    click.echo(f"{report.headline}\n{page}")
