"""accuracy.png: the accuracy of each system with its 95% interval. Needs no display."""

from __future__ import annotations

import io

from pipelines.evaluate.model import Report
from pipelines.scoring.system import TITLES

_STUDENT, _OTHERS = "#1f6feb", "#8b949e"


def accuracy_png(report: Report) -> bytes:
    """The plot, with the systems that have an accuracy."""
    # The object interface: pyplot would choose a backend and keep global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    systems = [s for s in report.systems if s.accuracy is not None and s.interval is not None][::-1]
    figure = Figure(figsize=(7.0, 1.4 + 0.5 * len(systems)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for position, system in enumerate(systems):
        low, high = (100 * bound for bound in system.interval or ())
        accuracy = 100 * (system.accuracy or 0.0)
        axes.barh(position, accuracy, height=0.6, color=_STUDENT if system.name == "student" else _OTHERS)
        axes.hlines(position, low, high, color="black", linewidth=1.5)
        axes.vlines([low, high], position - 0.12, position + 0.12, color="black", linewidth=1.5)
        axes.text(high + 1.5, position, f"{accuracy:.1f}%", va="center")
    axes.set_yticks(range(len(systems)), [TITLES[s.name] for s in systems])
    axes.set_xlim(0, 112)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel(f"accuracy in % of {report.heldout.scored:,} held-out examples (lines: Wilson 95% interval)")
    axes.set_title(f"{report.run}: {report.task.name}", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
