"""The headline of a comparison, and notes on the limits of its figures.

With 100% of the labels step-by-step is right on 12.3% of 200 held-out examples and finetune on 9.1% (SmolLM2-135M, mean of 3 seeds):
+3.2 points (95% interval -1.2 to +7.6), no difference is shown.
"""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.compare.model import ComparisonReport, Difference, LabelCounts
from pipelines.methods import MethodName
from pipelines.reports.format import fraction, percent, percents, plural, points, points_range
from pipelines.scoring.statistics import verdict

_METHODS: tuple[MethodName, ...] = ("step-by-step", "rationale-then-label", "task-distillation")
"""The headline is about the first of these in the grid. Fixed in advance, so that it is never the best by chance."""
_ONE_SEED = ", which ignores the choice of the seed"
_SAME_LENGTH = 0.05
"""Trainings whose steps and tokens differ by a smaller share count as equally long."""


def headline(report: ComparisonReport) -> str:
    """One sentence on the largest student with the most labels: the first of _METHODS against the baseline."""
    one = _headline_difference(report)
    if one is None:
        return _without_differences(report)
    single = one.seeds == 1
    subject = "this student is" if single else "it is"
    result = verdict(one.interval)
    return (
        f"With {fraction(one.fraction)} of the labels {one.method} is right on {percent(one.accuracy)} of "
        f"{report.heldout.scored:,} held-out examples and {report.baseline} on {percent(one.baseline_accuracy)} "
        f"({one.student}, {_seeds(one.seeds)}): {points(one.difference)} points "
        f"(95% interval {points_range(one.interval)}{_ONE_SEED if single else ''}), "
        f"{'no difference is shown' if result == 'not shown' else f'{subject} {result}'}."
    )


def notes(report: ComparisonReport, labels: LabelCounts) -> list[str]:
    """Limits of the figures: few seeds, trainings of different length, rows that no method learns from."""
    return [*_seed_notes(report), *_length_notes(report), *_row_notes(labels)]


def _headline_difference(report: ComparisonReport) -> Difference | None:
    sizes = {student.name: student.parameters for student in report.students}
    order = [*_METHODS, *(one.method for one in report.differences)]
    return min(report.differences, key=lambda d: (order.index(d.method), -d.fraction, -sizes[d.student]), default=None)


def _seed_notes(report: ComparisonReport) -> Iterator[str]:
    counts = {len(group.cells) for group in report.groups} | {one.seeds for one in report.differences}
    if 1 in counts:
        yield (
            "Intervals of one seed are of this very student: they ignore how much another seed would change. "
            "Better or worse then says nothing about the method."
        )
    if 2 in counts:
        yield "Intervals of two seeds that differ are too narrow: in simulations with 1,000 examples about 90% cover the truth."


def _length_notes(report: ComparisonReport) -> Iterator[str]:
    """Steps and tokens of the methods relative to the baseline, for the student and the fraction of the headline."""
    one = _headline_difference(report)
    if one is None:
        return
    groups = {g.method: g for g in report.groups if (g.student, g.fraction) == (one.student, one.fraction)}
    base = groups.pop(report.baseline)
    if not base.steps or not base.tokens:
        return
    ratios = {method: (group.steps / base.steps, group.tokens / base.tokens) for method, group in groups.items()}
    different = [
        f"{method} takes {steps:.1f} times the optimizer steps and {tokens:.1f} times the tokens of {report.baseline}"
        for method, (steps, tokens) in ratios.items()
        if max(abs(steps - 1), abs(tokens - 1)) >= _SAME_LENGTH
    ]
    if different:
        place = f"{one.student}, {fraction(one.fraction)} of the labels"
        yield f"Methods are not trained equally long ({place}): {'; '.join(different)}."


def _row_notes(labels: LabelCounts) -> Iterator[str]:
    """Rejected rows are missing for the baseline too, which could have learned them from gold labels alone."""
    if labels.rejected:
        reasons = sorted(labels.rejected_by_reason.items(), key=lambda found: -found[1])
        yield (
            f"All methods, including the baseline, learn only from accepted rows: {labels.accepted:,} of {labels.read:,} "
            f"(rejected: {', '.join(f'{reason} {count:,}' for reason, count in reasons)})."
        )


def _without_differences(report: ComparisonReport) -> str:
    """The headline of a grid with a single method, or of one that has just begun."""
    sizes = {student.name: student.parameters for student in report.students}
    methods = {group.method for group in report.groups} | {cell.method for cell in report.missing}
    if report.groups and len(methods) == 1:
        one = max(report.groups, key=lambda group: (group.fraction, sizes[group.student]))
        interval = percents(one.interval) + (_ONE_SEED if len(one.cells) == 1 else "")
        return (
            f"With {fraction(one.fraction)} of the labels {one.method} is right on {percent(one.accuracy)} "
            f"(95% interval {interval}) of {report.heldout.scored:,} held-out examples "
            f"({one.student}, {_seeds(len(one.cells))}). The grid has no other method to compare with."
        )
    done = sum(len(group.cells) for group in report.groups)
    finished = f"{done:,} of {plural(done + len(report.missing), 'training')} {'is' if done == 1 else 'are'} finished"
    return f"No method can be compared with {report.baseline} yet: {finished}."


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"mean of {count} seeds"
