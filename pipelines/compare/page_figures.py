"""The plots of a comparison: accuracy against the share of the labels (the data-efficiency figure of Hsieh et al. 2023), one panel for each
student, and accuracy against the size of the student.

In: a comparison's report.json. Out: inline SVG.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from markupsafe import Markup

from pipelines.reports.curves import LEVEL_LINES, Chart, Curve, Level, curves_picture, span_of
from pipelines.reports.format import fraction, percent, rounded, short
from pipelines.scoring.system import TITLES

LINES = {name: TITLES[name] for name in ("teacher", "majority", "untrained")}
_TITLE_CHARACTERS = 22


def methods_of(report: Mapping[str, Any]) -> list[str]:
    """The methods in the order in which they are drawn and listed: the baseline first."""
    methods = dict.fromkeys(group["method"] for group in report["groups"])
    return sorted(methods, key=lambda method: method != report["baseline"])


def largest_fraction(report: Mapping[str, Any]) -> float:
    """The largest share of the labels of which there are results."""
    return max(float(group["fraction"]) for group in report["groups"])


def data_plots(report: Mapping[str, Any]) -> list[Markup]:
    """Accuracy against the share of the labels, for each student with results. All show the same span, so that they compare."""
    places = {float(group["fraction"]): fraction(group["fraction"]) for group in report["groups"]}
    found = {}
    for student in report["students"]:
        wanted = {"student": student["name"]}
        curves = _curves(report, wanted, lambda group: float(group["fraction"]))
        if curves:
            found[student["name"]] = (student, curves, _levels(report, student["name"]))
    span = span_of(
        [curve for _, curves, _ in found.values() for curve in curves],
        [level for *_, levels in found.values() for level in levels],
    )
    plots: list[Markup] = []
    for student, curves, levels in found.values():
        title = f"{short(student['name'], _TITLE_CHARACTERS)}, {rounded(student['parameters'])} parameters"
        said = f"Line plot for {student['name']}: accuracy against the share of the training labels. "
        chart = Chart(title, places, "share of the training labels", curves, levels, span)
        plots.append(curves_picture(chart, name=f"data-{len(plots)}", text=said + _said(chart)))
    return plots


def size_plot(report: Mapping[str, Any]) -> Markup | None:
    """Accuracy against parameters at the largest share of the labels; None where fewer than two sizes have results there."""
    share = largest_fraction(report)
    sizes = {student["name"]: float(student["parameters"]) for student in report["students"]}
    curves = _curves(report, {"fraction": share}, lambda group: sizes[group["student"]])
    places = {place: rounded(place) for curve in curves for place in curve.places}
    if len(places) < 2:
        return None
    levels = _levels(report, None)
    title = f"With {fraction(share)} of the training labels"
    chart = Chart(title, places, "parameters of the student", curves, levels, span_of(curves, levels), logarithmic=True)
    return curves_picture(
        chart, name="size", text=f"Line plot: accuracy against the size of the student. {_said(chart)}"
    )


def _curves(report: Mapping[str, Any], wanted: Mapping[str, Any], place: Callable[[Any], float]) -> tuple[Curve, ...]:
    """One for each method that has groups with the wanted values."""
    curves = []
    for position, method in enumerate(methods_of(report)):
        fitting = {**wanted, "method": method}
        groups = [group for group in report["groups"] if all(group[key] == value for key, value in fitting.items())]
        groups.sort(key=place)
        if groups:
            lows, highs = (tuple(100 * group["interval"][side] for group in groups) for side in (0, 1))
            accuracies = tuple(100 * group["accuracy"] for group in groups)
            curves.append(Curve(method, position, tuple(place(group) for group in groups), accuracies, lows, highs))
    return tuple(curves)


def _levels(report: Mapping[str, Any], student: str | None) -> tuple[Level, ...]:
    """The lines that hold for every student, and those of this one."""
    styles = dict(zip(LINES, LEVEL_LINES, strict=True))
    return tuple(
        Level(LINES[line["name"]], 100 * line["accuracy"], styles[line["name"]])
        for line in report["lines"]
        if line["accuracy"] is not None and line["student"] in (None, student)
    )


def _said(chart: Chart) -> str:
    """The chart in words."""
    curves = [
        f"{curve.name}: "
        + ", ".join(
            f"{percent(a / 100)} at {chart.places[p]}" for p, a in zip(curve.places, curve.accuracies, strict=True)
        )
        for curve in chart.curves
    ]
    levels = [f"{level.name}: {percent(level.accuracy / 100)}" for level in chart.levels]
    return ". ".join([*curves, *levels]) + "."
