"""Reasons to stop labelling early: the budget is used up, most first answers are rejected, or the task raises on too many rows."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import BudgetConfig, LabellingConfig, RunConfig, TeacherConfig
from pipelines.errors import StageFailedError
from pipelines.label.answers.outcomes import MAX_TOKENS
from pipelines.label.output.counts import TASK_RAISED, Counts
from pipelines.label.output.spending import plus
from pipelines.label.reporting.usage import teacher_cost
from pipelines.label.teachers.base import TokensUsed
from pipelines.runtime.terminal import say
from pipelines.tasks.failures import RAISED

_WARN_ROWS, _WARN_SHARE = 10, 0.5
_QUIET_S = 1.0
"""Without rows in engines and without a new one: the last rows have reached the driver."""


@dataclass(frozen=True)
class _Reject:
    id: str
    reason: str
    detail: str
    output: str


class FirstRows:
    """Fails a run that rejects most of its first answers: then the prompt or the parser is wrong, not the rows."""

    def __init__(self, settings: LabellingConfig, max_tokens: int) -> None:
        """`max_tokens`: of an answer."""
        self._settings, self._max_tokens = settings, max_tokens
        self._seen, self._warns = 0, True
        self._reasons: Counter[str] = Counter()
        self._example: _Reject | None = None

    def check(self, outcomes: pa.Table) -> None:
        """Count the outcomes of train rows. Raises StageFailedError once too many of the first ones are rejected."""
        left = self._settings.first_rows - self._seen
        if left <= 0:
            return
        train = outcomes.filter(pc.equal(outcomes["split"], "train")).slice(0, left)
        rejects = train.filter(pc.is_valid(train["reason"]))
        self._seen += len(train)
        self._reasons.update(rejects["reason"].to_pylist())
        if len(rejects) and self._example is None:
            self._example = _Reject(**rejects.select(["id", "reason", "detail", "output"]).slice(0, 1).to_pylist()[0])
        self._warn()
        if self._seen == self._settings.first_rows:
            self._decide()

    def _warn(self) -> None:
        """Say it once if most of the first answers are cut: then the limit is wrong, and each further row is paid for nothing."""
        cut = self._reasons["truncated"]
        if self._warns and self._seen >= _WARN_ROWS and cut > _WARN_SHARE * self._seen:
            self._warns = False
            say(
                f"label: {cut} of the first {self._seen} answers are cut at {MAX_TOKENS} {self._max_tokens:,}. "
                "End with Ctrl-C, raise it, and run again with --replace."
            )

    def _decide(self) -> None:
        rejected, limit, example = self._reasons.total(), self._settings.max_reject_share, self._example
        if example is None or rejected <= limit * self._seen:
            return
        reasons = ", ".join(f"{reason} {count}" for reason, count in self._reasons.most_common(3))
        remedy = "Check the prompts with `raystill plan`."
        if self._reasons["truncated"] > rejected / 2:
            remedy = f"Raise {MAX_TOKENS}, which is {self._max_tokens:,}, and add --replace."
        raise StageFailedError(
            f"{rejected} of the first {self._seen} answers are rejected ({reasons}); labelling.max_reject_share is {limit}. "
            f"For example {example.id}, {example.reason} ({example.detail}): {example.output[:300]!r}. "
            f"{remedy} To label all the same, add --set labelling.max_reject_share=1."
        )


class TaskFailures:
    """Fails a run whose task raises on more rows than labelling.max_task_error_share allows. One row is always allowed."""

    def __init__(self, settings: LabellingConfig, counts: Counts) -> None:
        """`counts`: of the rows that have an outcome."""
        self._share, self._failed, self._example = settings.max_task_error_share, counts.notes[TASK_RAISED], ""

    def check(self, outcomes: pa.Table, total: int | None) -> None:
        """Count these outcomes. Raises StageFailedError once the rows so far exceed what is allowed of all rows.

        Args:
            total: rows of the corpus, held-out rows included. None: not known yet.
        """
        failed = outcomes.filter(pc.fill_null(pc.starts_with(outcomes["detail"], RAISED), False))
        if len(failed) and not self._example:
            row = failed.select(["id", "detail"]).slice(0, 1).to_pylist()[0]
            self._example = f"For example row {row['id']}: {row['detail']}."
        self.count(len(failed), total)

    def count(self, failed: int, total: int | None) -> None:
        """Count rows on which the task raised. Raises as `check`."""
        self._failed += failed
        if total is not None:
            self.decide(total)

    def decide(self, total: int) -> None:
        """Raise StageFailedError if too many of all rows failed."""
        if self._failed <= max(self._share * total, 1):
            return
        example = self._example or "The rejects have the error of each row."
        raise StageFailedError(
            f"the task raised an error on {self._failed:,} of {total:,} rows; labelling.max_task_error_share is {self._share}. "
            f"{example} Correct the task file. To keep these rows as rejects, add --set labelling.max_task_error_share=1."
        )


def over_budget(teacher: TeacherConfig, used: TokensUsed) -> str:
    """The budget that these tokens have used up, as a message; empty without a budget, or if something is left."""
    budget, spent = teacher.budget, teacher_cost(teacher, used)
    if budget.tokens is not None and used.prompt + used.output >= budget.tokens:
        return f"teacher.budget.tokens {budget.tokens:,} is used up"
    if budget.money is not None and spent and spent.amount >= budget.money:
        return f"teacher.budget.money {budget.money:g} is used up"
    return ""


def budget_used(teacher: TeacherConfig, used: TokensUsed) -> str:
    """What is used, in the unit of the budget: `0.2991 is spent`. Empty without a budget of tokens or money."""
    budget, spent = teacher.budget, teacher_cost(teacher, used)
    tokens = f"{used.prompt + used.output:,} tokens are used" if budget.tokens is not None else ""
    money = f"{spent.amount:.4g} is spent" if budget.money is not None and spent else ""
    return ", ".join(part for part in (tokens, money) if part)


def while_budget_lasts(run: RunConfig, used: TokensUsed, health: Any, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The tables with rows, until the budget is used up and the rows under way are here.

    Args:
        used: by earlier runs.
        health: handle of `health_actor`.
        tables: of outcomes. One is empty if the teacher skipped its rows for the budget.
    """
    import ray

    counts, last_row, idle_since = Counts(), time.monotonic(), math.inf
    for table in tables:
        if len(table):
            if run.teacher.budget != BudgetConfig():
                counts.add(Counts.of(table))
            yield table
            last_row, idle_since = time.monotonic(), math.inf
        elif ray.get(health.stop_reasons.remote()).budget:
            now = time.monotonic()
            is_lost = now - last_row > run.teacher.remote.timeout_s  # reservations of an engine that was killed stay
            if ray.get(health.in_flight.remote()) and not is_lost:
                idle_since = math.inf
            elif now - (idle_since := min(idle_since, now)) > _QUIET_S:
                return
        if over_budget(run.teacher, plus(used, counts.paid_tokens)):
            return
