"""A comparison as a table for the terminal: comparison_table(report) -> rich Table, a line for each method and fraction."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from pipelines.methods import rationale_readers
from pipelines.reports.format import ABSENT, fraction, one_line, percent, percents, plural, points, points_range
from pipelines.reports.provenance import heldout_notices
from pipelines.scoring.rationales import told_of_read
from pipelines.scoring.statistics import verdict

if TYPE_CHECKING:
    from rich.table import Table


def key_of(row: Mapping[str, Any]) -> tuple[str, str, float]:
    """Which student, method and fraction a group, a difference or a cost is of."""
    return str(row["student"]), str(row["method"]), float(row["fraction"])


def comparison_table(report: Mapping[str, Any]) -> Table:
    """The groups of a comparison's report.json as a table for the terminal: accuracy, and by how much it is ahead of the baseline.

    The student is named where there are several. Below stands what has to be known of the figures, and how many cells are missing.
    """
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    several = len(report["students"]) > 1
    scored = f"{report['heldout']['scored']:,} held-out examples"
    shown = Table(title=f"{report['run']}: {scored}", title_justify="left")
    for name in [*(["student"] if several else []), "method"]:
        shown.add_column(name, overflow="fold")
    for name in ("labels", "seeds", "accuracy", "95% interval", f"ahead of {report['baseline']} by"):
        shown.add_column(name, justify="right")
    differences = {key_of(difference): difference for difference in report["differences"]}
    for group, following in zip_longest(report["groups"], report["groups"][1:]):
        against = differences.get(key_of(group))
        ahead = ABSENT if against is None else f"{points(against['difference'])} ({points_range(against['interval'])})"
        shown.add_row(
            *([escape(group["student"])] if several else []),
            escape(group["method"]),
            fraction(group["fraction"]),
            str(len(group["cells"])),
            percent(group["accuracy"]),
            percents(group["interval"]),
            ahead,
            style="bold" if against is not None and verdict(against["interval"]) == "ahead" else None,
            end_section=following is not None and key_of(following)[:2] != key_of(group)[:2],
        )
    notes = list(report["notes"])
    if report["missing"]:
        notes.append(
            f"{plural(len(report['missing']), 'cell is', 'cells are')} missing; the means are over the others."
        )
    if report["rationales_read"]:
        notes.append(f"{', '.join(rationale_readers())} {told_of_read(report['rationales_read'])}.")
    notes += heldout_notices(report["heldout"])
    if notes:
        shown.caption, shown.caption_justify = Text("\n".join(map(one_line, notes))), "left"
    return shown
