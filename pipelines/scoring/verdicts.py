"""Verdicts as table cells."""

from __future__ import annotations

from pipelines.reports.tables import Cell
from pipelines.scoring.statistics import Verdict

_CELLS: dict[Verdict, Cell] = {
    "better": Cell("▲ better", "better"),
    "worse": Cell("▼ worse", "worse"),
    "not shown": Cell("no difference shown", "open"),
}


def verdict_cell(found: Verdict) -> Cell:
    """The verdict of a difference."""
    return _CELLS[found]
