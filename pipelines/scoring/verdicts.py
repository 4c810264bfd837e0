"""Verdicts as table cells."""

from __future__ import annotations

from pipelines.reports.tables import Cell
from pipelines.scoring.model import Interval
from pipelines.scoring.statistics import Verdict, verdict

_CELLS: dict[Verdict, Cell] = {
    "better": Cell("▲ better", "better"),
    "worse": Cell("▼ worse", "worse"),
    "not shown": Cell("no difference shown", "open"),
}


def verdict_cell(interval: Interval) -> Cell:
    """The verdict of a difference by its interval."""
    return _CELLS[verdict(interval)]
