"""Plot of accuracies over places (shares of the labels, sizes of students): a curve with a band per series, and horizontal levels.

    chart = Chart(
        title="SmolLM2-135M", places={0.25: "25%", 1.0: "100%"}, axis_title="share of the labels",
        curves=(Curve("finetune", 0, (0.25, 1.0), (4.1, 9.1), (2.0, 6.0), (7.0, 13.2)),),
        levels=(Level("teacher", 74.0, LEVEL_LINES[0]),), span=span_of(curves, levels),
    )
    curves_picture(chart, name="data", text="Line plot ...") -> inline SVG

All accuracies are in percent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from pipelines.reports.figures import Style, Theme, picture, series_style
from pipelines.reports.format import percent, short

LEVEL_LINES: tuple[Any, ...] = ((0, (8, 3)), (0, (1, 1.8)), (0, (4, 2, 1, 2)), (0, (8, 2, 1, 2, 1, 2)), (0, (3, 1)))
_WIDTH, _AXES_HEIGHT, _LEGEND_ROW = 4.7, 3.0, 0.19
_MIN_SPREAD = 5.0
_NAME_CHARACTERS = 24
_NEAR = 0.13  # share of the axis; closer names overlap


@dataclass(frozen=True)
class Curve:
    """One series, from the smallest place to the largest; `lows` and `highs` bound its accuracies."""

    name: str
    position: int
    """Selects colour, marker and line; the same in every plot of a page."""
    places: tuple[float, ...]
    accuracies: tuple[float, ...]
    lows: tuple[float, ...]
    highs: tuple[float, ...]


@dataclass(frozen=True)
class Level:
    """A system with the same accuracy at every place: a horizontal line."""

    name: str
    accuracy: float
    line: Any
    """A linestyle of matplotlib."""


@dataclass(frozen=True)
class Span:
    """Range of the accuracy axis. Levels outside of it are named at its edge."""

    low: float
    high: float


@dataclass(frozen=True)
class Chart:
    """One plot."""

    title: str
    places: Mapping[float, str]
    """All places, with their names."""
    axis_title: str
    curves: tuple[Curve, ...]
    levels: tuple[Level, ...]
    span: Span
    logarithmic: bool | None = None
    """None: logarithmic only if the names would overlap otherwise."""


def span_of(curves: Sequence[Curve], levels: Sequence[Level]) -> Span:
    """A span with every band, and with every level that is near enough not to flatten the curves."""
    low, high = min(low for c in curves for low in c.lows), max(high for c in curves for high in c.highs)
    room = max(high - low, _MIN_SPREAD)
    near = [level.accuracy for level in levels if low - room <= level.accuracy <= high + room]
    bottom, top = min([low, *near]), max([high, *near])
    margin = 0.05 * max(top - bottom, _MIN_SPREAD)
    # Zero is shown if it is near. An edge with levels beyond it gets room for their names.
    bottom = 0.0 if bottom < 0.35 * top else bottom
    bottom -= margin * (3.5 if any(level.accuracy < low - room for level in levels) and bottom else 1)
    top += margin * (3.5 if any(level.accuracy > high + room for level in levels) else 1)
    return Span(bottom, min(top, 100 + margin))


def curves_picture(chart: Chart, *, name: str, text: str) -> Markup:
    """The chart as inline SVG; `name` and `text` as in `picture`."""
    drawn = len(chart.curves) + sum(_side(level, chart.span) == 0 for level in chart.levels)
    height = _AXES_HEIGHT + _LEGEND_ROW * math.ceil(drawn / 2)
    return picture(lambda figure, theme: _draw(figure, theme, chart), name=name, size=(_WIDTH, height), text=text)


def _draw(figure: Any, theme: Theme, chart: Chart) -> None:
    from matplotlib.lines import Line2D

    axes = figure.add_subplot()
    axes.set_title(short(chart.title, 2 * _NAME_CHARACTERS), loc="left", pad=8)
    handles = []
    for order, curve in enumerate(chart.curves):
        style = series_style(theme, curve.position)
        if len(chart.places) == 1:
            handles.append(_point(axes, curve, style, 0.16 * (order - (len(chart.curves) - 1) / 2)))
        else:
            handles.append(_curve(axes, curve, style, order, alpha=min(0.1, 0.4 / len(chart.curves))))
    for level in chart.levels:
        if _side(level, chart.span) == 0:
            axes.axhline(level.accuracy, color=theme.muted, linewidth=1.2, linestyle=level.line, zorder=1.5)
            handles.append(Line2D([], [], color=theme.muted, linewidth=1.2, linestyle=level.line, label=_named(level)))
    _accuracy_axis(axes, chart, theme)
    _place_axis(axes, chart)
    handle = 2.8 if len(chart.places) > 1 else 1.5
    figure.legend(
        handles=handles, loc="outside lower left", ncols=2, handlelength=handle, columnspacing=1.6, labelspacing=0.35,
    )  # fmt: skip


def _curve(axes: Any, curve: Curve, style: Style, order: int, alpha: float) -> Any:
    axes.fill_between(curve.places, curve.lows, curve.highs, color=style.colour, alpha=alpha, linewidth=0)
    (line,) = axes.plot(
        curve.places, curve.accuracies, color=style.colour, linestyle=style.line, marker=style.marker, markersize=5,
        linewidth=1.7, zorder=3 + order, label=short(curve.name, _NAME_CHARACTERS),
    )  # fmt: skip
    return line


def _point(axes: Any, curve: Curve, style: Style, shift: float) -> Any:
    """A single place: points side by side, since bands would have no width."""
    places = [place + shift for place in curve.places]
    axes.vlines(places, curve.lows, curve.highs, color=style.colour, linewidth=1.7)
    (marker,) = axes.plot(
        places,
        curve.accuracies,
        color=style.colour,
        linestyle="none",
        marker=style.marker,
        markersize=6,
        label=short(curve.name, _NAME_CHARACTERS),
    )
    return marker


def _accuracy_axis(axes: Any, chart: Chart, theme: Theme) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_ylim(chart.span.low, chart.span.high)
    ticks = MaxNLocator(nbins=9, steps=[1, 2, 5, 10]).tick_values(chart.span.low, chart.span.high)
    axes.set_yticks([tick for tick in ticks if 0 <= tick <= 100 and chart.span.low <= tick <= chart.span.high])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}%")
    axes.yaxis.grid(True, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)
    axes.set_ylabel("accuracy")
    for side, sign, place, aligned in ((1, "▲", 0.985, "top"), (-1, "▼", 0.02, "bottom")):
        beyond = [_named(level) for level in chart.levels if _side(level, chart.span) == side]
        if beyond:
            paper = {"facecolor": theme.paper, "edgecolor": "none", "pad": 1.5}
            axes.text(
                0.015, place, f"{sign} {'; '.join(beyond)}", transform=axes.transAxes, va=aligned, color=theme.muted,
                fontsize=8.5, bbox=paper,
            )  # fmt: skip


def _named(level: Level) -> str:
    return f"{short(level.name, _NAME_CHARACTERS)}, {percent(level.accuracy / 100)}"


def _place_axis(axes: Any, chart: Chart) -> None:
    places = sorted(chart.places)
    logarithmic = chart.logarithmic if chart.logarithmic is not None else _uneven(places)
    if len(places) == 1:
        axes.set_xlim(places[0] - 1, places[0] + 1)
    else:
        if logarithmic:
            axes.set_xscale("log")
        low, high = (_at(place, logarithmic) for place in (places[0], places[-1]))
        margin = 0.06 * (high - low)
        edges = (low - margin, high + margin)
        axes.set_xlim(*((10**edge for edge in edges) if logarithmic else edges))
    axes.minorticks_off()
    named = _apart(places, logarithmic)
    axes.set_xticks(places, [chart.places[place] if place in named else "" for place in places])
    axes.set_xlabel(chart.axis_title + (" (logarithmic)" if logarithmic and len(places) > 1 else ""))


def _at(place: float, logarithmic: bool) -> float:
    return math.log10(place) if logarithmic else place


def _uneven(places: Sequence[float]) -> bool:
    gaps = [b - a for a, b in pairwise(places)]
    return bool(gaps) and min(gaps) < _NEAR * (places[-1] - places[0])


def _apart(places: Sequence[float], logarithmic: bool) -> set[float]:
    """The places whose names do not overlap: the largest, and going down each that is far enough from the previous one."""
    found = {places[-1]}
    length = _at(places[-1], logarithmic) - _at(places[0], logarithmic)
    for place in reversed(places):
        if _at(min(found), logarithmic) - _at(place, logarithmic) >= _NEAR * length > 0:
            found.add(place)
    return found


def _side(level: Level, span: Span) -> int:
    """0: the level is inside the span, 1: above, -1: below."""
    return (level.accuracy > span.high) - (level.accuracy < span.low)
