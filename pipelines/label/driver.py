"""The driver's loop: outcomes of the teacher actors go to the writer, to progress and to metrics."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.config import RunConfig
from pipelines.data.label_manifest import EngineUsage
from pipelines.data.reader import FileRange
from pipelines.errors import StageFailedError
from pipelines.label.early_stop import FirstRows, TaskFailures, budget_used, over_budget, while_budget_lasts
from pipelines.label.engines.actor import TeacherSetup
from pipelines.label.engines.causes import cause_of
from pipelines.label.engines.dataset import outcomes, teacher_setup, together
from pipelines.label.engines.health import StopReasons, health_actor
from pipelines.label.interrupt import Interruption, patient_interrupt
from pipelines.label.output.counts import TASK_RAISED
from pipelines.label.output.spending import AllSpending, Spending, plus, used_tokens
from pipelines.label.output.writer import LabelWriter
from pipelines.label.output.written import WrittenParts
from pipelines.label.reporting.progress_file import EngineProgress, LabelProgressFile
from pipelines.label.reporting.usage import Work, shares
from pipelines.label.running_scan import RunningScan, running_scan
from pipelines.label.shards import Shards, ShardSetup, word
from pipelines.label.stored.keys import AnswerKeys
from pipelines.label.teachers.registry import teacher_class
from pipelines.runtime.progress import Progress

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
        failures: TaskFailures,
    ) -> None:
        from pipelines.label.reporting.prometheus import LabelMetrics

        self.began = self.last_outcome = time.monotonic()
        self.scan_s = 0.0
        self.ready: float | None = None
        """When the first engine was ready; None before the first outcome."""
        self.before, self.done_before = copy.deepcopy(writer.counts), writer.finished_rows
        self.metrics = LabelMetrics(run.name, run.teacher.gpus_per_replica, self.before)
        self._writer, self._live, self._health = writer, live, health
        self._first_rows, self._task_failures = FirstRows(run.labelling, run.teacher.sampling.max_tokens), failures
        self._rejected = 0

    def take(self, table: pa.Table, progress: Progress, scan: RunningScan) -> None:
        """Pass on a table of outcomes. Raises StageFailedError if too many rows are rejected (early_stop.py)."""
        scan.poll()
        self._writer.add(table)
        self._first_rows.check(table)
        self._task_failures.check(table, scan.total)
        self._advance(len(table), progress, scan)

    def take_written(self, written: WrittenParts, progress: Progress, scan: RunningScan) -> None:
        """Pass on what a shard has written."""
        self._writer.add_written(written)
        self._task_failures.count(written.counts.notes[TASK_RAISED], scan.total)
        self._advance(written.counts.done + written.retried, progress, scan)

    def _advance(self, rows: int, progress: Progress, scan: RunningScan) -> None:
        self.last_outcome = time.monotonic()
        if self.ready is None:  # rates are those of engines at work, without their start
            self.ready = _ready_at(self._health, self.began)
            progress.begin(self.ready)
        self.show(scan.total)
        self.count(rows, progress, scan)

    def count(self, rows: int, progress: Progress, scan: RunningScan) -> None:
        """Count rows with an outcome, and the rejects of the scan since the last call."""
        rows += scan.rejected - self._rejected
        progress.total, self._rejected = scan.total, scan.rejected
        counts = self._writer.counts
        progress.advance(rows, detail=shares(counts.accepted, counts.rejected))

    def show(self, total: int | None) -> None:
        """Pass on the counts of the committed rows. `total`: rows of the corpus, if they are known."""
        self.metrics.rows(self._writer.counts, total)
        self._live.update(self._writer.counts)

    def finish(self, total: int | None) -> None:
        """Commit what is left, also after an error."""
        self._writer.commit()
        self.show(total)

    def work(self, usage: EngineUsage) -> Work:
        """What this run took."""
        ready, counts = self.began if self.ready is None else self.ready, self._writer.counts
        return Work(
            rows=self._writer.finished_rows - self.done_before,
            prompt_tokens=counts.prompt_tokens - self.before.prompt_tokens,
            output_tokens=counts.output_tokens - self.before.output_tokens,
            seconds=self.last_outcome - ready,
            engine_start_s=ready - self.began,
            scan_s=self.scan_s,
            start_s=usage.start_s,
            up_s=usage.up_s,
            busy_s=usage.busy_s,
        )


def label_rows(
    run: RunConfig,
    ranges: Sequence[FileRange],
    writer: LabelWriter,
    live: LabelProgressFile,
    failures: TaskFailures,
    keys: AnswerKeys,
) -> tuple[Work, EngineUsage]:
    """Give every row without an outcome one, and commit it. Returns what that took.

    Args:
        ranges: of the corpus.
        keys: of the answers that are stored.

    Raises:
        UserError: a file of the corpus cannot be read.
        StageFailedError: no engine starts, too many rows are rejected, or the budget is used up. Finished rows are committed.
    """
    import ray

    is_paid, paid = teacher_class(run.teacher.engine).meters_budget, writer.counts.paid_tokens
    spending, used = AllSpending.read(writer.store), used_tokens(writer.store, paid)
    paid_before = plus(spending.answered, spending.missing(paid))
    health = health_actor(Spending(writer.store, spending.missing(paid)) if is_paid else None)
    loop = _Loop(run, writer, live, health, failures)
    loop.show(writer.total)
    live.begin(loop.done_before, partial(_engine_progress, health, loop.metrics))
    with Progress("label", total=writer.total, unit="rows", start=loop.done_before, file=live) as progress:
        try:
            if not writer.is_complete:
                live.phase("starting engine")
                progress.refresh()
                with (
                    running_scan(run, ranges, writer, failures) as scan,
                    patient_interrupt(health, is_paid=is_paid) as interruption,
                ):
                    setup = teacher_setup(run, used, health, keys)
                    label_all = _label_scanned if run.labelling.shards == 1 else _label_in_shards
                    label_all(setup, writer, health, scan, loop, progress, interruption)
                    loop.scan_s = scan.seconds
        finally:
            loop.finish(writer.total)
    _check_budget(run, writer, ray.get(health.stop_reasons.remote()))
    usage: EngineUsage = ray.get(health.usage.remote())
    loop.metrics.engines(usage)
    work = loop.work(usage)
    if is_paid:
        found, rows = AllSpending.read(writer.store), writer.counts.paid_tokens
        work = dataclasses.replace(work, paid=plus(found.answered, found.missing(rows)), paid_before=paid_before)
    return work, usage


def _label_scanned(
    setup: TeacherSetup, writer: LabelWriter, health: Any, scan: RunningScan, loop: _Loop, progress: Progress,
    interruption: Interruption,
) -> None:  # fmt: skip
    """Label with one dataset, in this process."""
    replicas, tickets = setup.run.teacher.replicas, range(scan.tickets)
    with _causes(scan, health):
        # Closed here, after an error too: closed by the garbage collector after the end of Ray, it would start another one.
        with closing(outcomes(setup, replicas, scan.reader, tickets, health)) as tables:
            answered = interruption.answered(tables)
            for table in together(while_budget_lasts(setup.run, setup.access.used, health, answered)):
                loop.take(table, progress, scan)
        interruption.finish()
        scan.finish()
    loop.count(0, progress, scan)


def _label_in_shards(
    setup: TeacherSetup, writer: LabelWriter, health: Any, scan: RunningScan, loop: _Loop, progress: Progress,
    interruption: Interruption,
) -> None:  # fmt: skip
    """Label with several datasets, each in an actor (shards.py)."""
    state = writer.state
    common = ShardSetup(
        writer.store,
        setup,
        scan.reader,
        scan.tickets,
        health,
        setup.access.used,
        state.to_retry,
        state.next_number,
        word(),
    )
    with _causes(scan, health), closing(Shards(common, setup.run.labelling.shards)) as shards:
        for written in shards.results():
            scan.poll()
            if written is not None:
                loop.take_written(written, progress, scan)
            if interruption.is_over(0 if written is None else written.counts.done):
                break
        interruption.finish()
        scan.finish()
    loop.count(0, progress, scan)


@contextmanager
def _causes(scan: RunningScan, health: Any) -> Iterator[None]:
    """Turn an error of Ray into the cause that an actor has reported."""
    import ray
    from ray.exceptions import RayError

    try:
        yield
    except RayError as error:
        with suppress(RayError):
            scan.finish()  # raises a UserError if a reader has named a damaged file
        stop: StopReasons = ray.get(health.stop_reasons.remote(), timeout=_TIMEOUT_S)
        cause = getattr(error, "cause", None)
        if isinstance(cause, StageFailedError):  # of a shard
            raise cause from error
        reason = stop.unusable or stop.failed or cause_of(error)
        raise StageFailedError(
            f"labelling failed: {reason.rstrip('.')}. {_KEPT} Run the same command to resume."
        ) from error


def _check_budget(run: RunConfig, writer: LabelWriter, stop: StopReasons) -> None:
    """Raise StageFailedError if the budget has left rows without a label."""
    used = used_tokens(writer.store, writer.counts.paid_tokens)
    used_up = stop.budget or over_budget(run.teacher, used)
    if used_up and not writer.is_complete:
        left = "the other" if writer.total is None else f"{writer.total - writer.finished_rows:,}"
        spent = budget_used(run.teacher, used)
        rule = f"{used_up}{spent and f': {spent}'}; {left} rows have no label yet. {_KEPT}"
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
