"""Reasons to stop labelling before all rows have an outcome: the budget is used up, or nearly all first answers are rejected."""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import BudgetConfig, LabellingConfig, RunConfig
from pipelines.errors import StageFailedError
from pipelines.label.output.counts import Counts
from pipelines.label.reporting.usage import cost


@dataclass(frozen=True)
class _Reject:
    id: str
    reason: str
    detail: str
    output: str


class FirstRows:
    """Fails a run that rejects most of its first answers: then the prompt or the parser is wrong, not the rows."""

    def __init__(self, settings: LabellingConfig) -> None:
        self._settings = settings
        self._seen = 0
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
        if self._seen == self._settings.first_rows:
            self._decide()

    def _decide(self) -> None:
        rejected, limit, example = self._reasons.total(), self._settings.max_reject_share, self._example
        if example is None or rejected <= limit * self._seen:
            return
        reasons = ", ".join(f"{reason} {count}" for reason, count in self._reasons.most_common(3))
        raise StageFailedError(
            f"{rejected} of the first {self._seen} answers are rejected ({reasons}); labelling.max_reject_share is {limit}. "
            f"For example {example.id}, {example.reason} ({example.detail}): {example.output[:300]!r}. "
            "Check the prompts with `raystill plan`. To label all the same, add --set labelling.max_reject_share=1."
        )


def over_budget(run: RunConfig, counts: Counts) -> str:
    """The budget that these counts have used up, as a message; empty without a budget, or if something is left."""
    budget, tokens = run.teacher.budget, counts.prompt_tokens + counts.output_tokens
    if budget.tokens is not None and tokens >= budget.tokens:
        return f"teacher.budget.tokens {budget.tokens:,} is used up ({tokens:,} tokens)"
    spent = cost(
        run.teacher.price, gpu_hours=0.0, prompt_tokens=counts.prompt_tokens, output_tokens=counts.output_tokens
    )
    if budget.money is not None and spent and spent.amount >= budget.money:
        return f"teacher.budget.money {budget.money:g} is used up ({spent.basis})"
    return ""


def while_budget_lasts(run: RunConfig, counts: Counts, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The tables with rows, until the budget is used up or only empty tables have come for long.

    Args:
        counts: of earlier runs. The writer's own would lag, since they grow with its commits.
        tables: of outcomes. One is empty if the teacher skipped its rows for the budget.
    """
    last, used = time.monotonic(), copy.deepcopy(counts)
    for table in tables:
        if len(table):
            last = time.monotonic()
            if run.teacher.budget != BudgetConfig():
                used.add(Counts.of(table))
            yield table
        elif time.monotonic() - last > run.teacher.remote.timeout_s:
            return
        if over_budget(run, used):
            return
