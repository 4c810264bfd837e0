"""`raystill label`, `train`, `evaluate`, `run`: what they check, start and print."""

from __future__ import annotations

import sys
from typing import Any

import click


def run_command(
    run_file: str, stages: tuple[Any, ...], *, replace: bool, overrides: tuple[str, ...], as_json: bool, verbose: bool,
    baseline: str | None = None,
) -> None:  # fmt: skip
    """Run stages in sequence on one Ray, and print their summaries. Raises RaystillError."""
    from cluster.commands.summary import print_summary, stage_summary
    from cluster.session.start import ray_session
    from pipelines.config.load import load_run
    from pipelines.run import run_stages
    from pipelines.storage.filesystems import shown

    run = load_run(run_file, overrides)
    summaries: list[dict[str, Any]] = []
    click.echo(f"{run.name}: {', '.join(stages)} -> {shown(run.output)}", err=True)
    check_inputs(run, stages)
    earlier = read_baseline(run, baseline) if baseline else None
    with ray_session(run, to_make(run, stages), verbose=verbose):
        run_stages(
            run, stages, replace=replace,
            on_finish=lambda stage, manifest, seconds: summaries.append(stage_summary(run, stage, manifest, seconds)),
        )  # fmt: skip
    if earlier:
        from pipelines.evaluate.stage import compare_with

        compare_with(run, earlier)
    extra = report_of(run) if "evaluate" in stages else {}
    print_summary(summaries, as_json=as_json, extra=extra)
    if extra and not as_json:
        print_report(extra["report"])


def to_make(run: Any, stages: tuple[Any, ...]) -> list[str]:
    """The stages without those whose artifact is there already: no nodes are waited for, and paid, on their behalf.

    Without "label" the corpus need not be there.
    """
    from pipelines.reuse import existing
    from pipelines.tasks import load_task, task_spec

    if "label" not in stages:
        from pipelines.train.checks import trained

        return [stage for stage in stages if stage != "train" or not trained(run)]
    found = existing(run, load_task(task_spec(run.task, run.task_options)))
    reused = {stage for stage in ("label", "train") if found[stage]["reused"] and not found[stage].get("rows_retried")}
    return [stage for stage in stages if stage not in reused]


def check_inputs(run: Any, stages: tuple[Any, ...]) -> None:
    """What can be known to be wrong before Ray is started. Raises UserError."""
    if "label" in stages:
        from pipelines.label.stage import check_label

        check_label(run)
    if "train" in stages:
        from pipelines.students.decoding import check_model
        from pipelines.train.checks import check_trackers

        check_model(run.student.model, "student.model")
        check_trackers(run.training)
        if "label" not in stages:
            from pipelines.train.stage import check_train

            check_train(run)
    elif "evaluate" in stages:
        from pipelines.evaluate.stage import check_evaluate

        check_evaluate(run)
    if "label" in stages and "evaluate" in stages:
        from pipelines.evaluate.checks import check_apart

        check_apart(run)


def read_baseline(run: Any, where: str) -> Any:
    """The earlier report that the run's is compared with. Raises UserError where there is none of the run's task."""
    from pipelines.evaluate.previous_report import read_earlier
    from pipelines.tasks import load_task, task_spec

    return read_earlier(where, load_task(task_spec(run.task, run.task_options)).name)


def report_of(run: Any) -> dict[str, Any]:
    """The report of a run as {"report": ...}."""
    import json

    from pipelines.storage.store import Store

    return {"report": json.loads(Store(run.output).child("report").read("report.json"))}


def print_report(report: dict[str, Any]) -> None:
    """The accuracy table on stdout."""
    from rich.console import Console

    from pipelines.evaluate.report_markdown import table

    Console(width=None if sys.stdout.isatty() else 120).print(table(report))
