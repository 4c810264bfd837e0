"""report.html: a report as one self-contained HTML page."""

from __future__ import annotations

from pipelines.evaluate import page_tables
from pipelines.evaluate.costs import student_facts
from pipelines.evaluate.model import Change, Report
from pipelines.evaluate.notes import INTERVALS, system_notes, votes_text
from pipelines.evaluate.page_figures import accuracy_plot, calibration_plots, difference_plot
from pipelines.methods import METHODS
from pipelines.reports.format import number, p_text, percent, points, points_range, rounded
from pipelines.reports.provenance import provenance_tables
from pipelines.reports.render import render
from pipelines.scoring.costs import teacher_facts
from pipelines.scoring.heldout_notices import heldout_notices, unreadable_table
from pipelines.scoring.model import RationaleQuality
from pipelines.scoring.settings import settings_facts
from pipelines.scoring.statistics import verdict
from pipelines.scoring.verdicts import verdict_cell


def report_page(report: Report) -> str:
    """The page. The same report gives the same text."""
    settings = report.settings.model_dump()
    return render(
        "evaluate/page.html.j2",
        report=report,
        facts=_facts(report),
        notices=heldout_notices(report.heldout),
        unreadable=unreadable_table(report.heldout),
        accuracy_plots=[accuracy_plot(report), *([difference_plot(report)] if report.comparisons else [])],
        accuracy_caption=f"Accuracy on {report.heldout.scored:,} held-out examples, and the student's minus that of the other systems. "
        "Lines: 95% intervals.",
        systems=page_tables.systems_table(report),
        interval_notes=INTERVALS,
        system_notes=system_notes(report),
        comparisons=page_tables.comparisons_table(report),
        weights=page_tables.quantized_table(report),
        calibration_error=f"{report.calibration.error:.3f}",
        calibration_plots=calibration_plots(report),
        calibration_caption="Accuracy by tenths of confidence, and the number of answers. The dashed line is perfect calibration.",
        calibration=page_tables.calibration_table(report),
        confusion=page_tables.confusion_table(report),
        rationale=_rationale(report.rationale) if report.rationale else [],
        change=_change(report.baseline) if report.baseline else [],
        errors=page_tables.errors_table(report),
        teacher=teacher_facts(report.cost.teacher),
        cost=student_facts(report.cost),
        reads_rationales=METHODS[report.student.method].reads_rationale,
        provenance=provenance_tables({"settings": settings, **report.provenance}, report.versions),
    )


def _facts(report: Report) -> list[tuple[str, str]]:
    task, heldout, student, settings = report.task, report.heldout, report.student, report.settings
    votes = [("Answers", votes_text(report.votes))] if report.votes else []
    return [
        ("Task", f"{task.name}, version {task.version}"),
        ("Held out", f"{heldout.scored:,} examples of {heldout.split}"),
        ("Method", student.method),
        ("Student", f"{rounded(student.parameters)} parameters, {student.family}"),
        *settings_facts(settings.labels, settings.filters, settings.training),
        *votes,
    ]


def _rationale(found: RationaleQuality) -> list[tuple[str, str]]:
    words = found.words
    return [
        ("Rationales", number(found.examples)),
        ("Empty", number(found.empty)),
        (f"Lead to the {found.of}'s label", percent(found.leads_to_label)),
        ("State the gold label", percent(found.states_gold)),
        ("Repeat the input", percent(found.repeats_input)),
        ("Words: 10%, median, 90%", ", ".join(map(number, (words.p10, words.median, words.p90))) if words else "-"),
    ]


def _change(change: Change) -> list[tuple[str, str]]:
    """The change since an earlier report. Paired figures are left out if the examples differ."""
    facts = [
        ("Earlier report", f"{change.run}, {change.created[:10]}"),
        ("Its accuracy", percent(change.accuracy)),
    ]
    if change.interval is None or change.p_value is None:
        return facts
    return [
        *facts,
        ("Change", f"{points(change.difference)} points ({points_range(change.interval)})"),
        ("Only now right", number(change.better)),
        ("Only then right", number(change.worse)),
        ("Verdict", f"{verdict_cell(verdict(change.interval)).text}, {p_text(change.p_value)}"),
    ]
