"""report.html: a report as one self-contained HTML page."""

from __future__ import annotations

from pipelines.evaluate import page_tables
from pipelines.evaluate.costs import student_facts
from pipelines.evaluate.model import Report
from pipelines.evaluate.notes import (
    CALIBRATION,
    INTERVALS,
    change_text,
    notices,
    rationale_facts,
    report_facts,
    system_notes,
)
from pipelines.evaluate.page_figures import accuracy_plot, calibration_plots, difference_plot
from pipelines.methods import METHODS
from pipelines.reports.provenance import provenance_tables
from pipelines.reports.render import render
from pipelines.scoring.costs import teacher_facts
from pipelines.scoring.heldout_notices import unreadable_table


def report_page(report: Report) -> str:
    """The page. The same report gives the same text."""
    settings = report.settings.model_dump()
    return render(
        "evaluate/page.html.j2",
        report=report,
        facts=report_facts(report),
        notices=notices(report),
        unreadable=unreadable_table(report.heldout),
        accuracy_plots=[accuracy_plot(report), *([difference_plot(report)] if report.comparisons else [])],
        accuracy_caption=f"Accuracy on {report.heldout.scored:,} held-out examples, and the student's minus that of the other systems. "
        "Lines: 95% intervals.",
        systems=page_tables.systems_table(report),
        interval_notes=INTERVALS,
        system_notes=system_notes(report),
        comparisons=page_tables.comparisons_table(report),
        weights=page_tables.quantized_table(report),
        calibration_text=CALIBRATION.format(report.calibration.error),
        calibration_plots=calibration_plots(report),
        calibration_caption="Accuracy by tenths of confidence, and the number of answers. The dashed line is perfect calibration.",
        calibration=page_tables.calibration_table(report),
        confusion=page_tables.confusion_table(report),
        rationale=rationale_facts(report.rationale) if report.rationale else [],
        change=change_text(report.baseline) if report.baseline else "",
        errors=page_tables.errors_table(report),
        teacher=teacher_facts(report.cost.teacher),
        cost=student_facts(report.cost),
        reads_rationales=METHODS[report.student.method].reads_rationale,
        provenance=provenance_tables({"settings": settings, **report.provenance}, report.versions),
    )
