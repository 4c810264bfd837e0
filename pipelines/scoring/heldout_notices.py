"""Notices on the held-out examples of a report: contamination, and rows that are not scored."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.reports.format import clipped, plural
from pipelines.reports.tables import Row, Table, table, text_cell
from pipelines.scoring.model import ExampleIds, HeldoutPart, Overlap

_LISTED = 10
_ID_CHARACTERS = 60


def heldout_notices(heldout: HeldoutPart) -> list[str]:
    """Notices for pages and tables; empty if all rows are scored and none is contaminated."""
    overlaps = (
        (heldout.trained_on, "in the training data. Their accuracy says little."),
        (heldout.chosen_on, "in the data on which weights or settings were chosen. Their accuracy may be too high."),
    )
    found = [_overlap(overlap, heldout.scored, rest) for overlap, rest in overlaps if overlap and overlap.count]
    return [*found, *_not_scored(heldout)]


def unreadable_table(heldout: HeldoutPart) -> Table | None:
    """The held-out rows that the task cannot read, with the reason; None if there are none."""
    found = heldout.unreadable
    rows: list[Row] = [[clipped(row.id, _ID_CHARACTERS), text_cell(row.problem)] for row in found.problems]
    first = f", the first {len(rows):,} of {found.count:,}" if found.count > len(rows) else ""
    return table(f"Unreadable rows{first}", ["id", "problem"], rows) if rows else None


def _overlap(overlap: Overlap, scored: int, rest: str) -> str:
    how = f"{overlap.by.input:,} by equal input, {overlap.by.near:,} by similar input"
    examples = f"{overlap.count:,} of {scored:,} scored examples ({how}: {_listed(overlap)})"
    return f"{examples} {'is' if overlap.count == 1 else 'are'} also {rest}"


def _not_scored(heldout: HeldoutPart) -> Iterator[str]:
    kinds = (
        (heldout.without_gold, "no gold label"),
        (heldout.in_prompt, "its label in the teacher's prompt"),
        (heldout.duplicates, "the id of an earlier row"),
    )
    for rows, problem in kinds:
        if rows.count:
            yield f"Not scored: {plural(rows.count, 'row')} with {problem}: {_listed(rows)}."
    if heldout.unreadable.count:
        first = heldout.unreadable.problems[0]
        yield f"Not scored: {plural(heldout.unreadable.count, 'unreadable row')}. First problem: {first.id}, {first.problem}."


def _listed(rows: ExampleIds) -> str:
    """The first ids."""
    ids = ", ".join(rows.ids[:_LISTED])
    return ids if rows.count <= _LISTED else f"{ids}, ..."
