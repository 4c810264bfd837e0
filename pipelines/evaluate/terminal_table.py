"""The systems of a report as a table for the terminal. Untrusted text is never markup."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.evaluate.model import Report
from pipelines.evaluate.notes import table_notes
from pipelines.reports.format import ABSENT, p_value, percent, percents, points, points_range
from pipelines.scoring.system import TITLES

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = (
    "system", "right", "accuracy", "95% interval", "unanswered", "student ahead by", "only student right", "only other right", "p",
)  # fmt: skip


def report_table(report: Report) -> Table:
    """The table, with notes as its caption."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=f"{report.run}: {report.heldout.scored:,} held-out examples", title_justify="left")
    for position, name in enumerate(COLUMNS):
        shown.add_column(name, justify="left" if position == 0 else "right")
    for cells in system_cells(report):
        shown.add_row(*cells, style="bold" if cells[0] == TITLES["student"] else None)
    if notes := table_notes(report):
        # Text, not str: square brackets in labels and ids are not rich markup.
        shown.caption, shown.caption_justify = Text("\n".join(notes)), "left"
    return shown


def system_cells(report: Report) -> list[list[str]]:
    """A row of COLUMNS per system."""
    compared = {comparison.student_vs: comparison for comparison in report.comparisons}
    rows = []
    for system in report.systems:
        cells = [TITLES[system.name]]
        if system.accuracy is None:
            cells += [ABSENT] * (len(COLUMNS) - 1)
        else:
            cells += [f"{system.correct:,} of {system.total:,}", percent(system.accuracy)]
            cells += [percents(system.interval), f"{system.unanswered:,}"]
            versus = None if system.name == "student" else compared.get(system.name)
            if versus is None:
                cells += [""] * 4
            else:
                cells += [f"{points(versus.difference)} ({points_range(versus.difference_interval)})"]
                cells += [f"{versus.better:,}", f"{versus.worse:,}", p_value(versus.p_value)]
        rows.append(cells)
    return rows
