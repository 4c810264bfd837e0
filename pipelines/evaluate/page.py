"""A report as one HTML page that needs nothing else.

    store.write("report.html", report_page(report).encode())

In: report.json of `raystill evaluate`, format 7. Out: the headline; what to know of the examples; the systems' accuracies; the student
against each; what changed since an earlier report; whether its confidences hold; what it confuses; its rationales; its most confident
errors; what it costs; origin.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.evaluate import page_tables
from pipelines.evaluate.page_figures import accuracy_plot, calibration_plot
from pipelines.methods import METHODS
from pipelines.reports.format import number, p_said, percent, plural, points, points_range, rounded
from pipelines.reports.provenance import heldout_notices, provenance_tables, unreadable_table
from pipelines.reports.render import render
from pipelines.scoring.costs import student_facts, teacher_facts
from pipelines.scoring.settings import settings_facts
from pipelines.scoring.system import TITLES


def report_page(report: Mapping[str, Any]) -> str:
    """The page. The same report gives the same text."""
    return render(
        "evaluate/page.html.j2",
        report=report,
        facts=_facts(report),
        notices=heldout_notices(report["heldout"]),
        unreadable=unreadable_table(report["heldout"]),
        accuracy_plot=accuracy_plot(report),
        accuracy_caption=f"Share of {report['heldout']['scored']:,} held-out examples that is answered right; lines: Wilson 95% interval.",
        systems=page_tables.systems_table(report),
        system_notes=_system_notes(report),
        comparisons=page_tables.comparisons_table(report),
        weights=page_tables.weights_table(report),
        calibration_error=f"{report['calibration']['error']:.3f}",
        calibration_plot=calibration_plot(report),
        calibration_caption="Above: the share that is right, by tenths of confidence; dashed: as often right as confident. "
        "Below: how many answers there are.",
        calibration=page_tables.calibration_table(report),
        confusion=page_tables.confusion_table(report),
        rationale=_rationale(report["rationale"]) if report["rationale"] else [],
        change=_change(report["baseline"]) if report["baseline"] else [],
        errors=page_tables.errors_table(report),
        teacher=teacher_facts(report["cost"]["teacher"]),
        cost=student_facts(report["cost"]),
        needs_a_teacher=METHODS[report["student"]["method"]].reads_rationale,
        provenance=provenance_tables(
            {**report, "provenance": {"settings": report["settings"], **report["provenance"]}}
        ),
    )


def _facts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    task, heldout, student, votes = (report[key] for key in ("task", "heldout", "student", "votes"))
    facts = [
        ("Task", f"{task['name']}, version {task['version']}"),
        ("Held out", f"{heldout['scored']:,} examples of {heldout['split']}"),
        ("Method", student["method"]),
        ("Student", f"{rounded(student['parameters'])} parameters, {student['family']}"),
        *settings_facts(report["settings"]),
    ]
    if votes:
        how = f"{plural(votes['n'], 'sample')} at temperature {votes['temperature']:g}, {percent(votes['agreement'])} agree"
        facts.append(("Answers by vote", how))
    return facts


def _system_notes(report: Mapping[str, Any]) -> list[str]:
    """Why a system has no accuracy, what stands for it, and what it could not read."""
    notes = [f"{TITLES[system['name']]}: {system['note']}." for system in report["systems"] if system["note"]]
    for system in report["systems"]:
        if system["too_long"]:
            inputs = plural(system["too_long"], "input without answer is", "inputs without answer are")
            notes.append(f"{TITLES[system['name']]}: {inputs} longer than it reads.")
    return notes


def _rationale(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    words = found["words"]
    return [
        ("Rationales", number(found["examples"])),
        ("Empty", number(found["empty"])),
        (f"Lead to the {found['of']}'s label", percent(found["leads_to_label"])),
        ("State the gold label", percent(found["states_gold"])),
        ("Repeat the input", percent(found["repeats_input"])),
        (
            "Words: 10%, median, 90%",
            ", ".join(number(words[key]) for key in ("p10", "median", "p90")) if words else "-",
        ),
    ]


def _change(earlier: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What changed since an earlier report; what needs the same examples is left out where they differ."""
    facts = [
        ("Earlier report", f"{earlier['run']}, {earlier['created'][:10]}"),
        ("Its accuracy", percent(earlier["accuracy"])),
    ]
    if not earlier["same_examples"]:
        return facts
    return [
        *facts,
        ("Now ahead by", f"{points(earlier['difference'])} points ({points_range(earlier['interval'])})"),
        ("Only now right", number(earlier["better"])),
        ("Only then right", number(earlier["worse"])),
        ("Verdict", f"{page_tables.judged(earlier['interval']).text}, {p_said(earlier['p_value'])}"),
    ]
