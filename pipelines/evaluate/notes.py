"""Sentences about a report that its page, report.md and terminal table share."""

from __future__ import annotations

from pipelines.evaluate.agreement import agreement_text
from pipelines.evaluate.model import Change, QuantizedScores, Report, Votes
from pipelines.evaluate.report import verdict_text
from pipelines.reports.format import (
    duration,
    number,
    one_line,
    p_text,
    percent,
    plural,
    points,
    points_range,
    rounded,
    tenths,
)
from pipelines.scoring.heldout_notices import heldout_notices
from pipelines.scoring.model import RationaleQuality
from pipelines.scoring.settings import settings_facts
from pipelines.scoring.system import TITLES, engine_text

INTERVALS = (
    "Intervals are 95% intervals: Wilson's for an accuracy, Bonett and Price's for a paired difference. Each holds on its own.",
    "A system is better or worse only if the interval of the difference excludes zero. p of the exact McNemar test is for information.",
    "An example without an answer that the task can read counts as wrong.",
)


CALIBRATION = (
    "The expected calibration error is {:.3f}, the mean distance between the student's confidence and its accuracy."
)


def report_facts(report: Report) -> list[tuple[str, str]]:
    """What was scored, as (name, value)."""
    task, heldout, student, settings = report.task, report.heldout, report.student, report.settings
    return [
        ("Task", f"{task.name}, version {task.version}"),
        ("Held out", f"{heldout.scored:,} examples of {heldout.split}"),
        ("Method", student.method),
        ("Student", f"{rounded(student.parameters)} parameters, {student.family}"),
        *settings_facts(settings.labels, settings.filters, settings.training),
        *([("Teacher's labels", report.teacher_labels.text)] if report.teacher_labels else []),
        *([("Answers", votes_text(report.votes))] if report.votes else []),
    ]


def rationale_facts(found: RationaleQuality) -> list[tuple[str, str]]:
    """The quality of rationales, as (name, value)."""
    words = found.words
    return [
        (f"Rationales of the {found.of}", number(found.examples)),
        ("Empty", number(found.empty)),
        (f"Lead to the {found.of}'s label", percent(found.leads_to_label)),
        ("State the gold label", percent(found.states_gold)),
        ("Repeat the input", percent(found.repeats_input)),
        ("Words: 10%, median, 90%", ", ".join(map(number, (words.p10, words.median, words.p90))) if words else "-"),
    ]


def system_notes(report: Report) -> list[str]:
    """Agreement with the teacher, and limits of the systems' accuracies."""
    notes = [f"{agreement_text(report.agreement)}."] if report.agreement else []
    notes += [f"{TITLES[system.name]}: {system.note}." for system in report.systems if system.note]
    for system in report.systems:
        if system.too_long:
            inputs = plural(system.too_long, "input is", "inputs are")
            notes.append(f"{TITLES[system.name]}: {inputs} longer than max_input_tokens and unanswered.")
    return notes


def notices(report: Report) -> list[str]:
    """What limits the whole report: labels of the teacher that collapse, contamination, rows that are not scored."""
    given = report.teacher_labels
    collapsed = [f"{given.warning[0].upper()}{given.warning[1:]}."] if given and given.warning else []
    return [*collapsed, *heldout_notices(report.heldout)]


def table_notes(report: Report) -> list[str]:
    """All notes for a reader who sees only the table of the systems, each on one line."""
    notes = [change_text(report.baseline)] if report.baseline else []
    if report.votes:
        notes.append(f"students: {votes_text(report.votes)}")
    notes += [_quantized_text(found) for found in report.weights]
    notes += system_notes(report)
    for system in report.systems:
        if system.seconds_per_example is not None:
            read, written = tenths(system.prompt_tokens_per_example), tenths(system.output_tokens_per_example)
            engine = f"{engine_text(system)}, " if system.engine else ""
            time = f"{engine}{duration(system.seconds_per_example)} per example, {read} tokens read, {written} written"
            notes.append(f"{TITLES[system.name]}: {time}")
    return [one_line(note) for note in (*notes, *notices(report))]


def votes_text(votes: Votes) -> str:
    """The majority vote over samples, in words."""
    samples = f"{plural(votes.n, 'sample')} at temperature {votes.temperature:g}"
    return f"majority vote over {samples}, {percent(votes.agreement)} agree"


def change_text(change: Change) -> str:
    """The student against the one of an earlier report."""
    which = f"compared with the report of {change.run}, {change.created[:10]}"
    if change.interval is None or change.p_value is None:
        return f"{which}: {percent(change.accuracy)} of {change.total:,} there; not paired: {change.note}"
    gap = f"{points(change.difference)} points ({points_range(change.interval)})"
    counts = f"only now right {change.better:,}, only then right {change.worse:,}"
    return f"{which}: {gap}, {counts}, {p_text(change.p_value)}, {verdict_text(change.interval)}"


def _quantized_text(found: QuantizedScores) -> str:
    gap = f"{points(found.difference)} points to float32 ({points_range(found.difference_interval)})"
    right = f"accuracy {percent(found.accuracy)}, {gap}, {p_text(found.p_value)}"
    speed = f"{duration(found.seconds_per_example)} per example"
    return f"student in {found.weights} ({found.engine}): {right}; same label {percent(found.same_label)}; {speed}"
