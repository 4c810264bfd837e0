"""Plots of a comparison, as inline SVG: accuracy against the share of the labels (the data-efficiency figure of Hsieh et al. 2023), a panel
per student, and accuracy against the size of the student.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from markupsafe import Markup

from pipelines.compare.model import ComparisonReport, Group
from pipelines.reports.curves import LEVEL_LINES, Chart, Curve, Level, curves_picture, span_of
from pipelines.reports.format import fraction, percent, rounded, short
from pipelines.scoring.system import TITLES

LINE_TITLES: dict[str, str] = {str(name): title for name, title in TITLES.items()} | {
    "few-shot": "untrained, few-shot", "tf-idf": "TF-IDF regression",
}  # fmt: skip
_STYLES: dict[str, Any] = dict(
    zip(("teacher", "majority", "untrained", "few-shot", "tf-idf"), LEVEL_LINES, strict=True)
)
_TITLE_CHARACTERS = 22


def methods_of(report: ComparisonReport) -> list[str]:
    """The methods in the order of plots and tables: the baseline first."""
    methods = dict.fromkeys(group.method for group in report.groups if group.treatment is None)
    return sorted(methods, key=lambda method: method != report.baseline)


def largest_fraction(report: ComparisonReport) -> float:
    """The largest share of the labels with results."""
    return max(group.fraction for group in report.groups)


def data_plots(report: ComparisonReport) -> list[Markup]:
    """Accuracy against the share of the labels for each student with results, on equal axes."""
    places = {group.fraction: fraction(group.fraction) for group in report.groups if group.treatment is None}
    found = []
    for student in report.students:
        groups = [group for group in report.groups if (group.student, group.treatment) == (student.name, None)]
        if groups:
            found.append(
                (student, _curves(report, groups, lambda group: group.fraction), _levels(report, student.name))
            )
    if not found:  # controls alone are finished
        return []
    span = span_of(
        [curve for _, curves, _ in found for curve in curves], [one for *_, levels in found for one in levels]
    )
    plots: list[Markup] = []
    for student, curves, levels in found:
        title = f"{short(student.name, _TITLE_CHARACTERS)}, {rounded(student.parameters)} parameters"
        text = f"Line plot for {student.name}: accuracy against the share of the training labels. "
        chart = Chart(title, places, "share of the training labels", curves, levels, span)
        plots.append(curves_picture(chart, name=f"data-{len(plots)}", text=text + _text(chart)))
    return plots


def gold_plots(report: ComparisonReport) -> list[Markup]:
    """Accuracy against the share of the gold labels that is used, a plot per student."""
    groups = [group for group in report.groups if group.gold_fraction is not None]
    places = {float(group.gold_fraction or 0.0): fraction(group.gold_fraction or 0.0) for group in groups}
    plots: list[Markup] = []
    for student in report.students:
        own = [group for group in groups if group.student == student.name]
        names = dict.fromkeys((group.method, group.treatment) for group in own)
        curves = tuple(
            _curve(
                f"{method}, {'gold alone' if kind == 'gold-only' else 'gold, else teacher'}", position,
                [group for group in own if (group.method, group.treatment) == (method, kind)],
                lambda group: float(group.gold_fraction or 0.0),
            )
            for position, (method, kind) in enumerate(names)
        )  # fmt: skip
        if curves:
            levels = _levels(report, student.name)
            title = f"{short(student.name, _TITLE_CHARACTERS)}, {rounded(student.parameters)} parameters"
            chart = Chart(title, places, "share of the gold labels", curves, levels, span_of(curves, levels))
            text = f"Line plot for {student.name}: accuracy against the share of the gold labels. {_text(chart)}"
            plots.append(curves_picture(chart, name=f"gold-{len(plots)}", text=text))
    return plots


def size_plot(report: ComparisonReport) -> Markup | None:
    """Accuracy against parameters at the largest share of the labels; None with results for fewer than two sizes."""
    share = largest_fraction(report)
    sizes = {student.name: float(student.parameters) for student in report.students}
    groups = [group for group in report.groups if (group.fraction, group.treatment) == (share, None)]
    curves = _curves(report, groups, lambda group: sizes[group.student])
    places = {place: rounded(place) for curve in curves for place in curve.places}
    if len(places) < 2:
        return None
    levels = _levels(report, None)
    title = f"With {fraction(share)} of the training labels"
    chart = Chart(title, places, "parameters of the student", curves, levels, span_of(curves, levels), logarithmic=True)
    text = f"Line plot: accuracy against the size of the student. {_text(chart)}"
    return curves_picture(chart, name="size", text=text)


def _curves(report: ComparisonReport, groups: Iterable[Group], place: Callable[[Group], float]) -> tuple[Curve, ...]:
    """A curve per method."""
    curves = []
    for position, method in enumerate(methods_of(report)):
        if own := [group for group in groups if group.method == method]:
            curves.append(_curve(method, position, own, place))
    return tuple(curves)


def _curve(name: str, position: int, groups: Iterable[Group], place: Callable[[Group], float]) -> Curve:
    own = sorted(groups, key=place)
    return Curve(
        name,
        position,
        places=tuple(place(group) for group in own),
        accuracies=tuple(100 * group.accuracy for group in own),
        lows=tuple(100 * group.interval[0] for group in own),
        highs=tuple(100 * group.interval[1] for group in own),
    )


def _levels(report: ComparisonReport, student: str | None) -> tuple[Level, ...]:
    """The lines for every student, and those of this one; of a line for each fraction, that of the largest."""
    share = largest_fraction(report)
    return tuple(
        Level(LINE_TITLES[line.name], 100 * line.accuracy, _STYLES[line.name])
        for line in report.lines
        if line.accuracy is not None and line.student in (None, student) and line.fraction in (None, share)
    )


def _text(chart: Chart) -> str:
    """Text alternative of the chart."""
    curves = [
        f"{curve.name}: "
        + ", ".join(
            f"{percent(a / 100)} at {chart.places[p]}" for p, a in zip(curve.places, curve.accuracies, strict=True)
        )
        for curve in chart.curves
    ]
    levels = [f"{level.name}: {percent(level.accuracy / 100)}" for level in chart.levels]
    return ". ".join([*curves, *levels]) + "."
