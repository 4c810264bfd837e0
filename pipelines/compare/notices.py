"""Notices above a comparison, for its page and its terminal table."""

from __future__ import annotations

from pipelines.compare.headline import verdict_sentences
from pipelines.compare.model import ComparisonReport
from pipelines.methods import rationale_readers
from pipelines.scoring.heldout_notices import heldout_notices
from pipelines.scoring.rationales import rationales_read_text


def notices(report: ComparisonReport) -> list[str]:
    """Missing cells, verdicts on the controls, limits of the figures, contamination, and rationales that students read."""
    lines = [*verdict_sentences(report), *report.notes, *heldout_notices(report.heldout)]
    if report.rationales_read:
        lines.append(f"{', '.join(rationale_readers())} {rationales_read_text(report.rationales_read)}.")
    if missing := len(report.missing):
        total = missing + sum(len(group.cells) for group in report.groups)
        lines.insert(
            0,
            f"{missing:,} of {total:,} trainings {'is' if missing == 1 else 'are'} missing. Means are over the others.",
        )
    return lines
