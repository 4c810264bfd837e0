"""The driver's loop: outcomes of the teacher actors go to the writer, to progress and to metrics."""

from __future__ import annotations

import copy
import time
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.config import RunConfig
from pipelines.data.label_manifest import EngineUsage
from pipelines.errors import StageFailedError
from pipelines.label.early_stop import FirstRows, TaskFailures, over_budget, while_budget_lasts
from pipelines.label.engines.causes import cause_of
from pipelines.label.engines.dataset import outcomes
from pipelines.label.engines.health import StopReasons, health_actor
from pipelines.label.output.commits import ScanRecord
from pipelines.label.output.writer import LabelWriter
from pipelines.label.reporting.progress_file import EngineProgress, LabelProgressFile
from pipelines.label.reporting.usage import Work, shares
from pipelines.label.stored.keys import AnswerKeys
from pipelines.runtime.progress import Progress
from pipelines.tasks import task_spec

if TYPE_CHECKING:
    from pipelines.label.reporting.prometheus import LabelMetrics

_KEPT = "Finished rows are kept."
_TIMEOUT_S = 60.0


class _Loop:
    """One run of the loop: what it feeds, and when."""

    def __init__(
        self,
        run: RunConfig,
        writer: LabelWriter,
        live: LabelProgressFile,
        health: Any,
        total: int,
        failures: TaskFailures,
    ) -> None:
        from pipelines.label.reporting.prometheus import LabelMetrics

        self.began = self.last_outcome = time.monotonic()
        self.ready: float | None = None
        """When the first engine was ready; None before the first outcome."""
        self.before, self.done_before = copy.deepcopy(writer.counts), writer.finished_rows
        self.metrics = LabelMetrics(run.name, run.teacher.gpus_per_replica, self.before)
        self._writer, self._live, self._health, self._total = writer, live, health, total
        self._first_rows, self._task_failures = FirstRows(run.labelling), failures
        failures.begin(total, writer.counts)

    def take(self, table: pa.Table, progress: Progress) -> None:
        """Pass on a table of outcomes. Raises StageFailedError if too many rows are rejected (early_stop.py)."""
        self._writer.add(table)
        self._first_rows.check(table)
        self._task_failures.check(table)
        self.last_outcome = time.monotonic()
        if self.ready is None:  # rates are those of engines at work, without their start
            self.ready = _ready_at(self._health, self.began)
            progress.begin(self.ready)
        counts = self._writer.counts
        self.metrics.rows(counts, self._total)
        self._live.update(counts)
        progress.advance(len(table), detail=shares(counts.accepted, counts.rejected))

    def finish(self) -> None:
        """Commit what is left, also after an error."""
        self._writer.commit()
        self.metrics.rows(self._writer.counts, self._total)

    def work(self, usage: EngineUsage) -> Work:
        """What this run took."""
        ready, counts = self.began if self.ready is None else self.ready, self._writer.counts
        return Work(
            rows=self._writer.finished_rows - self.done_before,
            prompt_tokens=counts.prompt_tokens - self.before.prompt_tokens,
            output_tokens=counts.output_tokens - self.before.output_tokens,
            seconds=self.last_outcome - ready,
            engine_start_s=ready - self.began,
            start_s=usage.start_s,
            up_s=usage.up_s,
            busy_s=usage.busy_s,
        )


def label_rows(
    run: RunConfig,
    scan: ScanRecord,
    writer: LabelWriter,
    live: LabelProgressFile,
    failures: TaskFailures,
    keys: AnswerKeys,
) -> tuple[Work, EngineUsage]:
    """Give every row without an outcome one, and commit it. Returns what that took.

    Args:
        failures: knows the scan's rejects.
        keys: of the answers that are stored.

    Raises:
        StageFailedError: no engine starts, too many rows are rejected, or the budget is used up. Finished rows are committed.
    """
    import ray
    from ray.exceptions import RayError

    spec, total = task_spec(run.task, run.task_options), sum(scan.rows.values())
    health = health_actor()
    loop = _Loop(run, writer, live, health, total, failures)
    loop.metrics.rows(loop.before, total)
    live.begin(loop.done_before, partial(_engine_progress, health, loop.metrics))
    live.update(loop.before)
    with Progress("label", total=total, unit="rows", start=loop.done_before, file=live) as progress:
        try:
            if loop.done_before < total:
                live.phase("starting engine")
                progress.refresh()
                # Closed here, after an error too: closed by the garbage collector after the end of Ray, it would start another one.
                with closing(outcomes(run, spec, scan, writer, health, keys)) as tables:
                    for table in while_budget_lasts(run, writer.counts, tables):
                        loop.take(table, progress)
        except RayError as error:
            stop: StopReasons = ray.get(health.stop_reasons.remote(), timeout=_TIMEOUT_S)
            reason = stop.unusable or stop.failed or cause_of(error)
            raise StageFailedError(
                f"labelling failed: {reason.rstrip('.')}. {_KEPT} Run the same command to resume."
            ) from error
        finally:
            loop.finish()
    _check_budget(run, writer, total, ray.get(health.stop_reasons.remote()))
    usage: EngineUsage = ray.get(health.usage.remote())
    loop.metrics.engines(usage)
    return loop.work(usage), usage


def _check_budget(run: RunConfig, writer: LabelWriter, total: int, stop: StopReasons) -> None:
    left = total - writer.finished_rows
    used_up = stop.budget or over_budget(run, writer.counts)
    if left and used_up:
        rule = f"{used_up}; {left:,} rows have no label yet. {_KEPT}"
        raise StageFailedError(f"{rule} Raise teacher.budget and run the same command to resume.")


def _engine_progress(health: Any, metrics: LabelMetrics) -> EngineProgress:
    """The engines' state for the progress file, whose thread calls this. Also updates their metrics."""
    import ray

    try:
        usage: EngineUsage = ray.get(health.usage.remote(), timeout=10)
    except ray.exceptions.RayError:
        return {}  # the cluster is going down, and the main thread reports why
    metrics.engines(usage)
    busy = usage.busy_s / usage.up_s if usage.up_s else None
    return {"engines": usage.engines, "busy_share": busy, "deaths": usage.deaths}


def _ready_at(health: Any, began: float) -> float:
    """When the first engine was ready, on this process' monotonic clock. `began` if the health actor does not know yet."""
    import ray

    usage: EngineUsage = ray.get(health.usage.remote())
    return began if usage.ready_for_s is None else max(time.monotonic() - usage.ready_for_s, began)
