"""The headline of a comparison, and notes on the limits of its figures.

With 100% of the labels step-by-step is right on 12.3% of 200 held-out examples and finetune on 9.1% (SmolLM2-135M, mean of 3 seeds):
+3.2 points (95% interval -1.2 to +7.6), no difference is shown.
"""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.compare.model import ComparisonReport, Difference, Group, LabelCounts
from pipelines.compare.verdicts import SAME_BUDGET, headline_difference
from pipelines.reports.format import fraction, percent, percents, plural, points, points_range
from pipelines.scoring.statistics import Verdict

_ONE_SEED = ", which ignores the choice of the seed"
_SAME_ROWS = 0.02
"""Trainings whose rows differ by a smaller share learn from the same rows."""
_SENTENCES: dict[Verdict, str] = {
    "better": "it is better",
    "worse": "it is worse",
    "not shown": "no difference is shown",
}


def headline(report: ComparisonReport) -> str:
    """One sentence on the largest student with the most labels: a fixed method against the baseline (verdicts.py)."""
    one = headline_difference(report.differences, report.students)
    if one is None:
        return _without_differences(report)
    reason = f" ({one.why})" if one.why else ""
    return (
        f"With {fraction(one.fraction)} of the labels {one.method} is right on {percent(one.accuracy)} of "
        f"{report.heldout.scored:,} held-out examples and {report.baseline} on {percent(one.baseline_accuracy)} "
        f"({one.student}, {_seeds(one.seeds)}{_budget(report, one)}): {points(one.difference)} points "
        f"(95% interval {points_range(one.interval)}{_ONE_SEED if one.seeds == 1 else ''}), {_SENTENCES[one.shown]}{reason}."
    )


def _budget(report: ComparisonReport, one: Difference) -> str:
    """The budget of the method, if it is the same as the baseline's."""
    if report.equal not in ("steps", "tokens") or one.budget_ratio is None or abs(one.budget_ratio - 1) > SAME_BUDGET:
        return ""
    group = next(group for group in report.groups if group.place == one.place)
    return f", {group.tokens if report.equal == 'tokens' else group.steps:,.0f} {report.equal} each"


def verdict_sentences(report: ComparisonReport) -> list[str]:
    """One sentence on each control and share of gold labels, for the student of the headline at the largest fraction."""
    one = headline_difference(report.differences, report.students)
    if one is None:
        return []
    return [
        f"{found.title} against {found.versus}: {points(found.difference)} points (95% interval {points_range(found.interval)}, "
        f"{_seeds(found.seeds)}), {_SENTENCES[found.shown]}{f' ({found.why})' if found.why else ''}."
        for found in report.differences
        if found.versus and (found.student, found.fraction) == (one.student, one.fraction)
    ]


def notes(report: ComparisonReport, labels: LabelCounts) -> list[str]:
    """Limits of the figures: few seeds, trainings of different length, missing controls, rows that no method learns from."""
    return [
        *_seed_notes(report), *_power_notes(report), *_length_notes(report), *_common_rows_notes(report), *_arm_notes(report),
        *_row_notes(labels),
    ]  # fmt: skip


def _seed_notes(report: ComparisonReport) -> Iterator[str]:
    counts = {len(group.cells) for group in report.groups} | {one.seeds for one in report.differences}
    if 1 in counts:
        yield (
            "Intervals of one seed are of this very student: they ignore how much another seed would change, and there is no verdict."
        )
    if 2 in counts:
        yield "Intervals of two seeds that differ are too narrow: in simulations about 90% cover the truth. There is no verdict."


def _power_notes(report: ComparisonReport) -> Iterator[str]:
    """What a result that is not shown means."""
    one = headline_difference(report.differences, report.students)
    if one is not None and one.shown == "not shown" and not one.why and report.detectable is not None:
        yield (
            f"A grid of this size was expected to show differences of {100 * report.detectable:.1f} points or more: "
            "not shown does not mean that the methods are equal."
        )


def _arm_notes(report: ComparisonReport) -> Iterator[str]:
    if missing := [f"{arm.name} ({arm.note})" for arm in report.arms if not arm.applies]:
        yield f"Controls that this grid lacks: {', '.join(missing)}."


def _common_rows_notes(report: ComparisonReport) -> Iterator[str]:
    """Methods that learn from other rows than the baseline, at one fraction."""
    one = headline_difference(report.differences, report.students)
    if one is None:
        return
    base, groups = _beside(report, one)
    different = [
        f"{method} {group.train_examples:,.0f}"
        for method, group in groups.items()
        if abs(group.train_examples / base.train_examples - 1) > _SAME_ROWS
    ]
    if different:
        yield f"Methods do not learn from the same rows: {report.baseline} {base.train_examples:,.0f}, {', '.join(different)}."


def _length_notes(report: ComparisonReport) -> Iterator[str]:
    """Steps and tokens of the methods relative to the baseline, for the student and the fraction of the headline."""
    one = headline_difference(report.differences, report.students)
    if one is None:
        return
    base, groups = _beside(report, one)
    if not base.steps or not base.tokens:
        return
    ratios = {method: (group.steps / base.steps, group.tokens / base.tokens) for method, group in groups.items()}
    different = [
        f"{method} takes {steps:.1f} times the optimizer steps and {tokens:.1f} times the tokens of {report.baseline}"
        for method, (steps, tokens) in ratios.items()
        if max(abs(steps - 1), abs(tokens - 1)) >= SAME_BUDGET
    ]
    if different:
        place = f"{one.student}, {fraction(one.fraction)} of the labels"
        yield f"Methods are not trained equally long ({place}): {'; '.join(different)}."


def _beside(report: ComparisonReport, one: Difference) -> tuple[Group, dict[str, Group]]:
    """(the baseline, the other methods by name) for the student and the fraction of a difference, without controls."""
    groups = {
        g.method: g for g in report.groups if (g.student, g.fraction, g.treatment) == (one.student, one.fraction, None)
    }
    return groups.pop(report.baseline), groups


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
    methods = {one.method for one in [*report.groups, *report.missing] if one.treatment is None}
    # A control may be finished before the method that it belongs to.
    if (plain := [group for group in report.groups if group.treatment is None]) and len(methods) == 1:
        one = max(plain, key=lambda group: (group.fraction, sizes[group.student]))
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
