"""The groups of a comparison as a table for the terminal."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING

from pipelines.compare.model import ComparisonReport, Difference
from pipelines.compare.notices import notices
from pipelines.reports.format import ABSENT, fraction, number, one_line, percent, percents, points, points_range

if TYPE_CHECKING:
    from rich.table import Table


def comparison_table(report: ComparisonReport) -> Table:
    """A line per method and fraction, with the difference to the baseline, and notices as the caption.

    The student is named if there are several.
    """
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    several = len(report.students) > 1
    shown = Table(title=f"{report.run}: {report.heldout.scored:,} held-out examples", title_justify="left")
    for name in [*(["student"] if several else []), "method"]:
        shown.add_column(name, overflow="fold")
    for name in ("labels", "seeds", "steps", "accuracy", "95% interval", f"ahead of {report.baseline} by", "verdict"):
        shown.add_column(name, justify="right")
    differences = {difference.place: difference for difference in report.differences if _against_row(difference)}
    for group, following in zip_longest(report.groups, report.groups[1:]):
        gap = differences.get(group.place)
        shown.add_row(
            *([escape(group.student)] if several else []),
            escape(group.title),
            fraction(group.fraction),
            str(len(group.cells)),
            number(group.steps),
            percent(group.accuracy),
            percents(group.interval),
            ABSENT if gap is None else f"{points(gap.difference)} ({points_range(gap.interval)})",
            ABSENT if gap is None else gap.shown,
            style="bold" if gap is not None and gap.shown == "better" else None,
            end_section=following is not None and following.place[:2] != group.place[:2],
        )
    if lines := notices(report):
        shown.caption, shown.caption_justify = Text("\n".join(map(one_line, lines))), "left"
    return shown


def _against_row(difference: Difference) -> bool:
    """True for the one difference of a row: to the baseline, or to finetune on the same gold labels."""
    return not difference.versus or difference.treatment == "gold-else-teacher"
