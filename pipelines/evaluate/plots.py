"""The report's one plot: accuracy of each system with its 95% interval, as PNG bytes. Needs no display."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

_COLOURS = {"student": "#1f6feb"}
_OTHERS = "#8b949e"


def accuracy_png(report: Mapping[str, Any], titles: Mapping[str, str]) -> bytes:
    """Draw the systems of a report that have an accuracy. `titles` names each as the reader knows it."""
    # The object interface: pyplot would pick a backend and keep global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    systems = [s for s in report["systems"] if s["accuracy"] is not None][::-1]
    figure = Figure(figsize=(7.0, 1.4 + 0.5 * len(systems)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for position, system in enumerate(systems):
        low, high = (100 * bound for bound in system["interval"])
        accuracy = 100 * system["accuracy"]
        axes.barh(position, accuracy, height=0.6, color=_COLOURS.get(system["name"], _OTHERS))
        axes.hlines(position, low, high, color="black", linewidth=1.5)
        axes.vlines([low, high], position - 0.12, position + 0.12, color="black", linewidth=1.5)
        axes.text(high + 1.5, position, f"{accuracy:.1f}%", va="center")
    axes.set_yticks(range(len(systems)), [titles[s["name"]] for s in systems])
    axes.set_xlim(0, 112)
    axes.set_xticks(range(0, 101, 20))
    total = report["heldout"]["scored"]
    axes.set_xlabel(f"right, % of {total:,} held-out examples (lines: Wilson 95% interval)")
    axes.set_title(f"{report['run']}: {report['task']['name']}", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
