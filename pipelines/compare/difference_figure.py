"""Plots of a comparison's differences: each method minus the other one at the largest share of the labels, a plot for each student."""

from __future__ import annotations

from markupsafe import Markup

from pipelines.compare.model import ComparisonReport, Difference
from pipelines.reports.differences import Gap, differences_picture
from pipelines.reports.format import short

_NAME_CHARACTERS = 26


def difference_plots(report: ComparisonReport) -> list[Markup]:
    """A plot for each student with differences: value, 95% interval and verdict."""
    share = max((one.fraction for one in report.differences), default=0.0)
    plots: list[Markup] = []
    for student in report.students:
        rows = [one for one in report.differences if (one.student, one.fraction) == (student.name, share)]
        if rows:
            gaps = [_gap(one, report.baseline) for one in rows]
            plots.append(
                differences_picture(
                    gaps, name=f"difference-{len(plots)}", axis="ahead by, in points", text=f"Differences for {student.name}",
                    height=0.85 + 0.5 * len(rows),
                )
            )  # fmt: skip
    return plots


def _gap(one: Difference, baseline: str) -> Gap:
    """Its title has the two methods on two lines."""
    title = f"{short(one.title, _NAME_CHARACTERS)}\nagainst {short(one.versus or baseline, _NAME_CHARACTERS)}"
    return Gap(title, one.difference, one.interval, one.shown, quiet=one.shown == "not shown")
