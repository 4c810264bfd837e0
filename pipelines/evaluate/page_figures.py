"""Plots of a report's page, as inline SVG: accuracies of the systems, differences to the student, its calibration. And accuracy.png."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from pipelines.evaluate.model import Report
from pipelines.reports.differences import Gap, differences_picture
from pipelines.reports.figures import Draw, Theme, picture, png
from pipelines.reports.format import percent, percents
from pipelines.scoring.system import TITLES

_WIDTH = 4.7
"""Half of the page, and all of a phone's."""
_CALIBRATION = (_WIDTH, 2.9)


def accuracy_plot(report: Report) -> Markup:
    """A bar with interval for each system that has an accuracy."""
    draw, size, text = _accuracy(report)
    return picture(draw, name="accuracy", size=size, text=text)


def accuracy_png(report: Report) -> bytes:
    """The same plot, in the light theme."""
    draw, size, _ = _accuracy(report)
    return png(draw, size)


def _accuracy(report: Report) -> tuple[Draw, tuple[float, float], str]:
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
    return draw, size, f"Bar chart of accuracies: {', '.join(texts)}."


def difference_plot(report: Report) -> Markup:
    """The student's accuracy minus that of each other system, with its interval."""
    gaps = [Gap(TITLES[one.student_vs], one.difference, one.difference_interval) for one in report.comparisons]
    return differences_picture(
        gaps, name="difference", axis="student ahead by, in points", text="Student minus other systems",
        height=0.75 + 0.42 * len(report.systems),
    )  # fmt: skip


def calibration_plots(report: Report) -> list[Markup]:
    """Reliability diagram (Guo et al. 2017, figure 1): accuracy against confidence; and the number of answers."""
    bins = [(tenth, one) for tenth, one in enumerate(report.calibration.bins) if one]
    confidences = [100 * one.confidence for _, one in bins]
    accuracies = [100 * one.accuracy for _, one in bins]
    counts = [one.count for _, one in bins]
    texts = [f"confidence {c:.1f}%, accuracy {a:.1f}%" for c, a in zip(confidences, accuracies, strict=True)]

    def reliability(figure: Any, theme: Theme) -> None:
        axes = figure.add_subplot()
        axes.plot([0, 100], [0, 100], color=theme.muted, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.plot(
            confidences, accuracies, color=theme.series[0], linewidth=1.7, marker="o", markersize=5, clip_on=False
        )
        axes.set_ylim(0, 100)
        axes.set_ylabel("accuracy")
        axes.set_yticks(range(0, 101, 25), [f"{tick}%" for tick in range(0, 101, 25)])
        _confidence_axis(axes)

    def answers(figure: Any, theme: Theme) -> None:
        axes = figure.add_subplot()
        axes.bar([10 * tenth + 5 for tenth, _ in bins], counts, width=8.6, color=theme.series[0], alpha=0.75)
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.set_ylabel("answers")
        _confidence_axis(axes)

    text = f"Reliability diagram of the student's answers in tenths of confidence: {'; '.join(texts)}."
    numbers = f"Answers in the same tenths: {', '.join(map(str, counts))}."
    return [
        picture(reliability, name="calibration", size=_CALIBRATION, text=text),
        picture(answers, name="answers", size=_CALIBRATION, text=numbers),
    ]


def _confidence_axis(axes: Any) -> None:
    axes.set_xlim(-2, 102)
    axes.set_xticks(range(0, 101, 20), [f"{tick}%" for tick in range(0, 101, 20)])
    axes.set_xlabel("confidence of the student")
    axes.tick_params(length=0, pad=5)
    axes.yaxis.grid(True, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
