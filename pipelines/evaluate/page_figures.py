"""Plots of a report's page, as inline SVG: accuracies of the systems, calibration of the student."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from pipelines.evaluate.model import Report
from pipelines.reports.figures import Theme, picture
from pipelines.reports.format import percent, percents
from pipelines.scoring.system import TITLES

_WIDTH = 4.7


def accuracy_plot(report: Report) -> Markup:
    """A bar with interval for each system that has an accuracy."""
    systems = [(s.name, s.accuracy, s.interval) for s in report.systems if s.accuracy is not None and s.interval]
    texts = [f"{TITLES[name]} {percent(accuracy)} ({percents(interval)})" for name, accuracy, interval in systems]

    def draw(figure: Any, theme: Theme) -> None:
        axes = figure.add_subplot()
        for position, (name, accuracy, interval) in enumerate(systems):
            low, high = (100 * bound for bound in interval)
            axes.barh(
                position, 100 * accuracy, height=0.58, color=theme.series[0] if name == "student" else theme.quiet
            )
            for colour, width in ((theme.paper, 4.0), (theme.ink, 1.4)):  # the wider line is an edge on the bar
                axes.hlines(position, low, high, color=colour, linewidth=width)
                axes.vlines([low, high], position - 0.11, position + 0.11, color=colour, linewidth=width)
            axes.text(high + 2, position, percent(accuracy), va="center", color=theme.ink)
        axes.set_yticks(range(len(systems)), [TITLES[name] for name, *_ in systems], color=theme.ink)
        axes.set_ylim(len(systems) - 0.5, -0.5)
        axes.set_xlim(0, 114)
        axes.set_xticks(range(0, 101, 20), [f"{tick}%" for tick in range(0, 101, 20)])
        axes.tick_params(length=0)
        axes.xaxis.grid(True, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines["bottom"].set_visible(False)
        axes.set_xlabel("accuracy")

    size = (_WIDTH, 0.75 + 0.42 * len(systems))
    return picture(draw, name="accuracy", size=size, text=f"Bar chart of accuracies: {', '.join(texts)}.")


def calibration_plot(report: Report) -> Markup:
    """Reliability diagram (Guo et al. 2017, figure 1): accuracy against confidence, above the number of answers."""
    bins = [(tenth, one) for tenth, one in enumerate(report.calibration.bins) if one]
    confidences = [100 * one.confidence for _, one in bins]
    accuracies = [100 * one.accuracy for _, one in bins]
    counts = [one.count for _, one in bins]
    texts = [f"confidence {c:.1f}%, accuracy {a:.1f}%" for c, a in zip(confidences, accuracies, strict=True)]

    def draw(figure: Any, theme: Theme) -> None:
        upper, lower = figure.subplots(2, sharex=True, height_ratios=(3.2, 1))
        upper.plot([0, 100], [0, 100], color=theme.muted, linewidth=1.2, linestyle=(0, (4, 3)))
        upper.plot(
            confidences, accuracies, color=theme.series[0], linewidth=1.7, marker="o", markersize=5, clip_on=False
        )
        upper.set_ylim(0, 100)
        upper.set_ylabel("accuracy")
        upper.set_yticks(range(0, 101, 25), [f"{tick}%" for tick in range(0, 101, 25)])
        lower.bar([10 * tenth + 5 for tenth, _ in bins], counts, width=8.6, color=theme.series[0], alpha=0.75)
        lower.yaxis.get_major_locator().set_params(nbins=2, integer=True)
        lower.set_ylabel("answers")
        lower.set_xlim(-2, 102)
        lower.set_xticks(range(0, 101, 20), [f"{tick}%" for tick in range(0, 101, 20)])
        lower.set_xlabel("confidence of the student")
        figure.align_ylabels()
        for axes in (upper, lower):
            axes.tick_params(length=0, pad=5)
            axes.yaxis.grid(True, linewidth=0.8)
            axes.set_axisbelow(True)
            axes.spines["left"].set_visible(False)

    text = f"Reliability diagram of the student's answers in tenths of confidence: {'; '.join(texts)}."
    return picture(draw, name="calibration", size=(_WIDTH, 3.9), text=text)
