"""The verdict on each difference of a comparison: better, worse or not shown.

In: differences with intervals, and the budgets of both sides. A difference is better or worse only if

- both sides have at least power.MIN_SEEDS seeds in common: with fewer, intervals are too narrow for a word on the method;
- their budgets differ by at most 5%;
- the 95% interval of the headline's difference excludes zero. All others are tests beside it: their p-values are corrected for their
  number (Holm 1979).

The headline is about the first of _METHODS at the largest share of the labels, which is fixed before any result.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.compare.model import Difference, Equal, Group, Student
from pipelines.methods import MethodName
from pipelines.scoring.power import MIN_SEEDS
from pipelines.scoring.statistics import CONFIDENCE_LEVEL, Verdict, holm, verdict

_METHODS: tuple[MethodName, ...] = ("step-by-step", "label-then-rationale", "rationale-then-label", "task-distillation")
SAME_BUDGET = 0.05
"""Budgets that differ by a smaller share count as equal."""


def headline_difference(differences: Sequence[Difference], students: Sequence[Student]) -> Difference | None:
    """The largest student with the most labels: the first of _METHODS against the baseline."""
    sizes = {student.name: student.parameters for student in students}
    plain = [one for one in differences if one.treatment is None and not one.versus]
    order = [*_METHODS, *(one.method for one in plain)]
    return min(plain, key=lambda d: (order.index(d.method), -d.fraction, -sizes[d.student]), default=None)


def budget_ratio(ours: Group, theirs: Group, equal: Equal) -> float | None:
    """Training of one group over that of another; None if it is unknown. With equal epochs, steps decide."""
    mine, other = (ours.tokens, theirs.tokens) if equal == "tokens" else (ours.steps, theirs.steps)
    return mine / other if other else None


def with_verdicts(differences: Sequence[Difference], headline: Difference | None, equal: Equal) -> list[Difference]:
    """The differences with their verdicts."""
    others = [one for one in differences if one is not headline]
    adjusted = iter(holm([1.0 if one.p_value is None else one.p_value for one in others]))
    found = []
    for one in differences:
        p = None if one is headline else next(adjusted)
        why = _why_none(one, equal)
        result: Verdict = "not shown"
        if not why and (p is None or p <= 1 - CONFIDENCE_LEVEL):
            result = verdict(one.interval)
        if not why and result == "not shown" and verdict(one.interval) != "not shown":
            why = f"with {len(others)} comparisons its p is {p:.2g}"
        found.append(one.model_copy(update={"adjusted_p": p, "verdict": result, "why": why}))
    return found


def _why_none(one: Difference, equal: Equal) -> str:
    """Why a difference gets no verdict; empty if it gets one."""
    if one.seeds < MIN_SEEDS:
        return f"fewer than {MIN_SEEDS} seeds"
    if one.budget_ratio is not None and abs(one.budget_ratio - 1) > SAME_BUDGET:
        return f"budgets differ: {one.budget_ratio:.2g} times the {'tokens' if equal == 'tokens' else 'steps'}"
    return ""
