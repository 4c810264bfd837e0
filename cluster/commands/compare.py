"""`raystill compare RUN`: labels where they are missing, then the grid, then its report."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import click

from pipelines.config import RunConfig
from pipelines.config.load import load_run
from pipelines.storage.filesystems import shown
from pipelines.storage.manifest import read_manifest
from pipelines.storage.store import Store


def run_comparison(run_file: str, overrides: tuple[str, ...], *, as_json: bool, verbose: bool) -> None:
    """Label, train and score what is not finished, and print the table.

    Raises:
        UserError: the run asks for what cannot be.
        StageFailedError: a cell failed; the others are reported.
    """
    from cluster.commands.stages import check_inputs
    from cluster.commands.summary import print_summary, stage_summary
    from cluster.session.start import ray_session
    from pipelines.compare.checks import check_compare
    from pipelines.compare.stage import compare
    from pipelines.evaluate.checks import check_apart
    from pipelines.run import run_stage
    from pipelines.train.checks import check_trackers

    run = load_run(run_file, overrides)
    click.echo(f"{run.name}: compare -> {shown(run.output)}", err=True)
    check_compare(run)
    check_trackers(run.training)
    labelled = read_manifest(Store(run.output).child("labels"), "labels") is not None
    check_inputs(run, ("label",))
    check_apart(run)
    summaries: list[dict[str, Any]] = []
    with ray_session(run, [*([] if labelled else ["label"]), "train", "evaluate"], verbose=verbose):
        began = time.monotonic()
        labels = run_stage(run, "label")
        summaries.append(stage_summary(run, "label", labels, time.monotonic() - began))
        began = time.monotonic()
        manifest = compare(run)
        summaries.append(stage_summary(run, "compare", manifest, time.monotonic() - began))
    content = _report(run)
    print_summary(summaries, as_json=as_json, extra={"report": content})
    if not as_json:
        _print(content, Store(run.output).child("compare").shown("report.html"))


def _report(run: RunConfig) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Store(run.output).child("compare").read("report.json"))
    return content


def _print(content: dict[str, Any], page: str) -> None:
    from rich.console import Console

    from pipelines.compare.tables import comparison_table

    Console(width=None if sys.stdout.isatty() else 120).print(comparison_table(content))
    click.echo(f"{content['headline']}\n{page}")
