"""report.md: the tables and facts of report.html. Untrusted text (inputs, labels, ids, notes) is neither Markdown nor HTML in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from pipelines.evaluate import page_tables
from pipelines.evaluate.costs import student_facts
from pipelines.evaluate.model import Report
from pipelines.evaluate.notes import CALIBRATION, INTERVALS, rationale_facts, report_facts, table_notes
from pipelines.reports.format import duration, short
from pipelines.reports.provenance import provenance_tables
from pipelines.reports.tables import Table
from pipelines.scoring.costs import teacher_facts

_TEXT_CHARACTERS = 300
_MARKUP = re.compile(r"[\\`\[\]|*]")
"""Markdown syntax within a line. The special characters of HTML become entities."""


def markdown(report: Report) -> str:
    """The file."""
    facts = [*teacher_facts(report.cost.teacher), *student_facts(report.cost)]
    settings = report.settings.model_dump()
    made = [("Student", report.student.fingerprint[:12]), ("Created", report.created), ("In", duration(report.seconds))]
    lines = [
        *(f"# {report.run}", "", report.headline, "", *_facts(report_facts(report))),
        *("", "![Accuracy](accuracy.png)", *_tables(page_tables.systems_table(report))),
        *(_tables(page_tables.comparisons_table(report)) if report.comparisons else ()),
        *_tables(page_tables.quantized_table(report)),
        *("", *(f"- {note}" for note in [*INTERVALS, *map(_escaped, table_notes(report))])),
        *_section("Calibration", [CALIBRATION.format(report.calibration.error)], page_tables.calibration_table(report)),
        *_section("Confusion", [_escaped(report.confusion_note)], page_tables.confusion_table(report)),
        *_section("Rationales", _facts(rationale_facts(report.rationale)) if report.rationale else []),
        *_section("Most confident errors", [], page_tables.errors_table(report)),
        *_section("Cost", _facts(facts)),
        *_section(
            "Provenance", _facts(made), *provenance_tables({"settings": settings, **report.provenance}, report.versions)
        ),
    ]
    return "\n".join(lines) + "\n"


def _section(title: str, lines: Sequence[str], *tables: Table | None) -> Iterator[str]:
    """A section, unless it is empty."""
    if any(lines) or any(tables):
        yield from ("", f"## {title}", *(("", *lines) if any(lines) else ()), *_tables(*tables))


def _facts(facts: Sequence[tuple[str, str]]) -> list[str]:
    return [f"- {name}: {_escaped(value)}" for name, value in facts]


def _tables(*tables: Table | None) -> Iterator[str]:
    for table in filter(None, tables):
        yield from ("", _row(column.name for column in table.columns))
        yield f"|{'|'.join('---:' if column.numeric else '---' for column in table.columns)}|"
        yield from (_row(cell.text for cell in row) for group in table.groups for row in group)


def _row(texts: Iterator[str]) -> str:
    """A table row of untrusted texts, each on one line."""
    return f"| {' | '.join(_escaped(short(text, _TEXT_CHARACTERS)) for text in texts)} |"


def _escaped(text: str) -> str:
    """An untrusted line as Markdown that only shows it."""
    plain = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKUP.sub(lambda sign: f"\\{sign[0]}", plain)
