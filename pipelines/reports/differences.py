"""Plot of paired differences with their 95% intervals, one line each, as inline SVG. For reports and comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from pipelines.reports.figures import Theme, picture
from pipelines.reports.format import points, points_range

_WIDTH = 4.7
"""Half of the page, and all of a phone's."""


@dataclass(frozen=True)
class Gap:
    """One difference, as a share."""

    title: str
    value: float
    interval: tuple[float, float]
    verdict: str = ""
    """Stands beside the value."""
    quiet: bool = False
    """Grey instead of the accent."""


def differences_picture(gaps: Sequence[Gap], *, name: str, axis: str, text: str, height: float) -> Markup:
    """The plot.

    Args:
        name: unique on the page.
        axis: what is ahead of what.
        text: the beginning of the text alternative; the differences follow.
        height: in the units of `picture`.
    """

    def draw(figure: Any, theme: Theme) -> None:
        axes = figure.add_subplot()
        paper = {"facecolor": theme.paper, "edgecolor": "none", "pad": 0.5}
        axes.axvline(0, color=theme.muted, linewidth=1.2, linestyle=(0, (4, 3)))
        for position, gap in enumerate(gaps):
            colour, value = theme.muted if gap.quiet else theme.series[0], 100 * gap.value
            axes.hlines(position, *(100 * bound for bound in gap.interval), color=colour, linewidth=1.7)
            axes.plot([value], [position], color=colour, marker="o", markersize=6)
            axes.text(value, position - 0.18, _note(gap), ha="center", va="bottom", color=theme.ink, bbox=paper)
        axes.set_yticks(range(len(gaps)), [gap.title for gap in gaps], color=theme.ink)
        axes.set_ylim(len(gaps) - 0.5, -0.7)
        axes.margins(x=0.12)
        axes.locator_params(axis="x", nbins=6)
        axes.tick_params(length=0)
        axes.xaxis.grid(True, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines["bottom"].set_visible(False)
        axes.set_xlabel(axis)

    found = ", ".join(
        f"{gap.title} {points(gap.value)} ({points_range(gap.interval)}){f', {gap.verdict}' if gap.verdict else ''}"
        for gap in gaps
    )
    return picture(draw, name=name, size=(_WIDTH, height), text=f"{text}, in points: {found}.")


def _note(gap: Gap) -> str:
    return f"{points(gap.value)}, {gap.verdict}" if gap.verdict else points(gap.value)
