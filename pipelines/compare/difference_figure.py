"""Plot of a comparison's differences, as inline SVG: each method minus the other one at the largest share of the labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from pipelines.compare.model import ComparisonReport, Difference
from pipelines.reports.figures import Theme, picture
from pipelines.reports.format import points, points_range, short

_WIDTH = 4.7
"""Half of the page, and all of a phone's."""
_NAME_CHARACTERS = 26


def difference_plots(report: ComparisonReport) -> list[Markup]:
    """A plot for each student with differences: the point, its 95% interval and the verdict."""
    if not report.differences:
        return []
    share = max(one.fraction for one in report.differences)
    plots: list[Markup] = []
    for student in report.students:
        rows = [one for one in report.differences if (one.student, one.fraction) == (student.name, share)]
        if rows:
            plots.append(_plot(rows, report.baseline, f"difference-{len(plots)}", student.name))
    return plots


def _plot(rows: Sequence[Difference], baseline: str, name: str, student: str) -> Markup:
    texts = [
        f"{_title(one, baseline)} {points(one.difference)} ({points_range(one.interval)}), {one.shown}" for one in rows
    ]

    def draw(figure: Any, theme: Theme) -> None:
        axes = figure.add_subplot()
        paper = {"facecolor": theme.paper, "edgecolor": "none", "pad": 0.5}
        axes.axvline(0, color=theme.muted, linewidth=1.2, linestyle=(0, (4, 3)))
        for position, one in enumerate(rows):
            colour = theme.muted if one.shown == "not shown" else theme.series[0]
            axes.hlines(position, *(100 * bound for bound in one.interval), color=colour, linewidth=1.7)
            axes.plot([100 * one.difference], [position], color=colour, marker="o", markersize=6)
            note = f"{points(one.difference)}, {one.shown}"
            axes.text(
                100 * one.difference, position - 0.18, note, ha="center", va="bottom", color=theme.ink, bbox=paper
            )
        axes.set_yticks(range(len(rows)), [_title(one, baseline) for one in rows], color=theme.ink)
        axes.set_ylim(len(rows) - 0.5, -0.7)
        axes.margins(x=0.12)
        axes.locator_params(axis="x", nbins=6)
        axes.tick_params(length=0)
        axes.xaxis.grid(True, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines["bottom"].set_visible(False)
        axes.set_xlabel("ahead by, in points")

    text = f"Differences for {student}, in points: {', '.join(texts)}."
    return picture(draw, name=name, size=(_WIDTH, 0.85 + 0.5 * len(rows)), text=text)


def _title(one: Difference, baseline: str) -> str:
    """The two methods, on two lines."""
    return f"{short(one.title, _NAME_CHARACTERS)}\nagainst {short(one.versus or baseline, _NAME_CHARACTERS)}"
