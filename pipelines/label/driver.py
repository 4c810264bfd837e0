"""From the flow of outcomes into the sink: commits, progress, and the reasons to stop early."""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import BudgetConfig, LabellingConfig, RunConfig
from pipelines.data.reader import FileRange
from pipelines.errors import StageFailedError
from pipelines.label.engines.dataset import outcomes
from pipelines.label.engines.health import Usage, ledger_actor
from pipelines.label.output.counts import Counts
from pipelines.label.output.writer import LabelWriter, ScanRecord
from pipelines.label.reporting.progress_file import ProgressFile
from pipelines.label.reporting.usage import Work, cost, shares
from pipelines.runtime.progress import Progress
from pipelines.tasks import TaskSpec

if TYPE_CHECKING:
    from pipelines.label.reporting.prometheus import LabelMetrics

GOES_ON = "Finished rows are kept; the same command goes on."


def stream(
    run: RunConfig, spec: TaskSpec, splits: list[FileRange], scan: ScanRecord, sink: LabelWriter, live: ProgressFile
) -> tuple[Work, Usage]:
    """Give every row that has none an outcome, and commit it. What that took, and what the engines did.

    Raises:
        StageFailedError: the engine cannot be started, most of the first rows are rejected, or the budget is used up. What is
            finished is committed.
    """
    import ray
    from ray.exceptions import RayError

    from pipelines.label.reporting.prometheus import LabelMetrics

    total = sum(scan.rows.values())
    done = sink.tally.done - sink.retried
    ledger, before = ledger_actor(), copy.deepcopy(sink.tally)
    metrics = LabelMetrics(run.name, run.teacher.gpus_per_replica, before)
    metrics.rows(before, total)
    live.begin(total, done, partial(_engines, ledger, metrics))
    began = last = time.monotonic()
    ready: float | None = None
    with Progress("label", total=total, unit="rows", start=done) as progress:
        progress.advance(0)
        try:
            if done < total:
                first_rows = FirstRows(run.labelling)
                for table in _while_budget_lasts(run, sink, outcomes(run, spec, splits, scan, sink, ledger)):
                    sink.add(table)
                    first_rows.look(table)
                    last = time.monotonic()
                    if ready is None:
                        # The rates are those of engines at work; what their start took is told apart.
                        ready = _ready_at(ledger, began)
                        progress.begin(ready)
                        live.work_began(ready)
                    tally = sink.tally
                    metrics.rows(tally, total)
                    progress.advance(len(table), detail=shares(tally.accepted, tally.rejected))
                    live.update(
                        progress.done, total, tally.accepted, tally.rejected, tally.prompt_tokens, tally.output_tokens
                    )
        except RayError as error:
            unusable, _ = ray.get(ledger.stopped.remote(), timeout=60.0)
            said = unusable or str(error).strip().splitlines()[-1]
            raise StageFailedError(f"labelling broke off: {said}. {GOES_ON}") from error
        finally:
            sink.commit()
            metrics.rows(sink.tally, total)
    _, spent = ray.get(ledger.stopped.remote())
    if sink.tally.done - sink.retried < total and (spent or over_budget(run, sink.tally)):
        raise StageFailedError(
            f"{spent or over_budget(run, sink.tally)}; {total - sink.tally.done + sink.retried:,} rows have no label yet. "
            f"{GOES_ON.removesuffix('.')} after teacher.budget is raised."
        )
    usage: Usage = ray.get(ledger.usage.remote())
    metrics.engines(usage)
    ready = began if ready is None else ready
    return _work(sink, before, done, usage, ready - began, last - ready), usage


class FirstRows:
    """Stops a run whose first answers are mostly rejected: then the prompt or the parser is wrong, and not the rows."""

    def __init__(self, settings: LabellingConfig) -> None:
        self._settings = settings
        self._seen = 0
        self._reasons: Counter[str] = Counter()
        self._example: dict[str, Any] = {}

    def look(self, outcomes: pa.Table) -> None:
        """Take the outcomes of train rows. Raises StageFailedError when the first ones are there and too many are rejected."""
        left = self._settings.first_rows - self._seen
        if left <= 0:
            return
        train = outcomes.filter(pc.equal(outcomes["split"], "train")).slice(0, left)
        rejects = train.filter(pc.is_valid(train["reason"]))
        self._seen += len(train)
        self._reasons.update(rejects["reason"].to_pylist())
        if len(rejects) and not self._example:
            self._example = rejects.slice(0, 1).to_pylist()[0]
        if self._seen == self._settings.first_rows:
            self._decide()

    def _decide(self) -> None:
        rejected, limit = self._reasons.total(), self._settings.max_reject_share
        if rejected <= limit * self._seen:
            return
        reasons = ", ".join(f"{reason} {count}" for reason, count in self._reasons.most_common(3))
        example = self._example
        raise StageFailedError(
            f"{rejected} of the first {self._seen} answers are rejected ({reasons}); labelling.max_reject_share is {limit}. "
            f"For example {example['id']}, {example['reason']} ({example['detail']}): {example['output'][:300]!r}. "
            "Look at `raystill plan`; --set labelling.max_reject_share=1 goes on all the same."
        )


def over_budget(run: RunConfig, tally: Counts) -> str:
    """Which budget the tally has used up; empty where there is none, or something is left of it."""
    budget, tokens = run.teacher.budget, tally.prompt_tokens + tally.output_tokens
    if budget.tokens is not None and tokens >= budget.tokens:
        return f"teacher.budget.tokens {budget.tokens:,} is used up ({tokens:,} tokens)"
    spent = cost(run.teacher.price, gpu_hours=0.0, prompt_tokens=tally.prompt_tokens, output_tokens=tally.output_tokens)
    if budget.money is not None and spent and spent["amount"] >= budget.money:
        return f"teacher.budget.money {budget.money:g} is used up ({spent['basis']})"
    return ""


def _while_budget_lasts(run: RunConfig, sink: LabelWriter, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The tables with rows, until they have used up the budget, or nothing but unasked rows has come for long."""
    last, used = time.monotonic(), copy.deepcopy(sink.tally)
    for table in tables:
        if len(table):
            last = time.monotonic()
            if run.teacher.budget != BudgetConfig():
                used.add(Counts.of(table))  # the sink's own counts what is committed, which may be half a minute old
            yield table
        elif time.monotonic() - last > run.teacher.remote.timeout_s:
            return
        if over_budget(run, used):
            return


def _work(sink: LabelWriter, before: Counts, done: int, usage: Usage, engine_start_s: float, seconds: float) -> Work:
    return Work(
        rows=sink.tally.done - sink.retried - done,
        prompt_tokens=sink.tally.prompt_tokens - before.prompt_tokens,
        output_tokens=sink.tally.output_tokens - before.output_tokens,
        seconds=seconds,
        engine_start_s=engine_start_s,
        start_s=usage.start_s,
        up_s=usage.up_s,
        busy_s=usage.busy_s,
    )


def _engines(ledger: Any, metrics: LabelMetrics) -> dict[str, Any]:
    """What is known of the engines, for whoever looks from outside. By another thread."""
    import ray

    try:
        usage: Usage = ray.get(ledger.usage.remote(), timeout=10)
    except ray.exceptions.RayError:
        return {}  # the cluster is going down: the main thread reports why
    metrics.engines(usage)
    busy = usage.busy_s / usage.up_s if usage.up_s else None
    return {"engines": usage.engines, "busy_share": busy, "deaths": usage.deaths}


def _ready_at(ledger: Any, otherwise: float) -> float:
    """When the first engine was ready, on this process' monotonic clock; `otherwise` where its word is not here yet."""
    import ray

    usage: Usage = ray.get(ledger.usage.remote())
    return otherwise if usage.ready_for_s is None else max(time.monotonic() - usage.ready_for_s, otherwise)
