"""The tables of a comparison's page. In: report.json. Out: pipelines.reports.tables.Table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from pipelines.compare.page_figures import LINES, largest_fraction, methods_of
from pipelines.compare.tables import key_of
from pipelines.reports.format import (
    ABSENT,
    duration,
    fraction,
    number,
    percent,
    percents,
    plural,
    points,
    points_range,
    tenths,
)
from pipelines.reports.tables import Cell, Mark, Row, Table, table, text_cell, without_empty
from pipelines.scoring.statistics import verdict

_ALL_STUDENTS = "all"


def accuracy_tables(report: Mapping[str, Any]) -> list[Table]:
    """Accuracy of each method and fraction with what a training of it takes, one table for each student, and that of the lines."""
    columns = ["method", "labels", "accuracy#", "95% interval#", "seeds#", "training rows (mean)#", "optimizer steps (mean)#",
               "tokens trained on (mean)#"]  # fmt: skip
    tables = []
    for student in _students(report):
        rows: list[Row] = [
            [
                *(group["method"], fraction(group["fraction"])),
                *(percent(group["accuracy"]), percents(group["interval"])),
                *(str(len(group["cells"])), *(number(group[key]) for key in ("train_examples", "steps", "tokens"))),
            ]
            for group in _ordered(report, report["groups"], student)
        ]
        tables.append(table(f"{student}: mean accuracy over the seeds", columns, rows, heads=2))
    return [*tables, *_line_tables(report)]


def _line_tables(report: Mapping[str, Any]) -> list[Table]:
    rows: list[Row] = [
        [
            *(LINES[line["name"]], line["student"] or _ALL_STUDENTS),
            ABSENT if line["correct"] is None else f"{line['correct']:,} of {line['total']:,}",
            *(percent(line["accuracy"]), percents(line["interval"]), text_cell(line["note"])),
        ]
        for line in report["lines"]
    ]
    columns, kept = without_empty(["system", "student", "right#", "accuracy#", "95% interval#", "note"], rows, "")
    return [table("What the methods are seen against", columns, kept, heads=2)] if rows else []


def size_tables(report: Mapping[str, Any]) -> list[Table]:
    """Accuracy of each method by the student's size, at the largest fraction."""
    share = largest_fraction(report)
    sizes = {student["name"]: student["parameters"] for student in report["students"]}
    groups = [group for group in report["groups"] if group["fraction"] == share]
    groups.sort(key=lambda group: (methods_of(report).index(group["method"]), sizes[group["student"]]))
    rows: list[Row] = [
        [
            *(group["method"], group["student"], number(sizes[group["student"]])),
            *(percent(group["accuracy"]), percents(group["interval"])),
        ]
        for group in groups
    ]
    columns = ["method", "student", "parameters#", "accuracy#", "95% interval#"]
    return [table(f"With {fraction(share)} of the training labels", columns, rows, heads=2)]


def difference_tables(report: Mapping[str, Any]) -> list[Table]:
    """By how much each method is ahead of the baseline, one table for each student."""
    columns = ["method", "labels", "points#", "95% interval#", "verdict", "seeds#"]
    tables = []
    for student in _students(report):
        rows: list[Row] = [
            [
                *(found["method"], fraction(found["fraction"])),
                *(Cell(points(found["difference"]), "strong"), points_range(found["interval"])),
                *(_judged(found["interval"]), str(found["seeds"])),
            ]
            for found in _ordered(report, report["differences"], student)
        ]
        if rows:
            tables.append(table(f"{student}: points of accuracy ahead of {report['baseline']}", columns, rows, heads=2))
    return tables


def _judged(interval: Sequence[float]) -> Cell:
    said = verdict(interval)
    marks: dict[str, tuple[str, Mark]] = {"ahead": ("▲ ", "ahead"), "behind": ("▼ ", "behind")}
    sign, mark = marks.get(said, ("", "open"))
    return Cell(sign + said, mark)


def search_tables(report: Mapping[str, Any]) -> list[Table]:
    """The settings that were tried, one table for each student; the chosen ones are marked."""
    search = report["search"]
    tables = []
    for student in dict.fromkeys(setting["student"] for setting in search["settings"]):
        rows: list[Row] = [_setting(setting) for setting in search["settings"] if setting["student"] == student]
        columns, rows = without_empty(
            ["method", "learning rate", "weight#", f"right on {search['split']}#", "share#", "chosen", "failed"],
            rows,
            ABSENT,
        )
        tables.append(table(f"{student}: settings tried", columns, rows, heads=2))
    return tables


def _setting(setting: Mapping[str, Any]) -> list[str | Cell]:
    weight = ABSENT if setting["weight"] is None else f"{setting['weight']:g}"
    share = setting["correct"] / setting["total"] if setting["total"] else None
    right = ABSENT if setting["correct"] is None else f"{setting['correct']:,} of {setting['total']:,}"
    chosen = Cell("✓ chosen", "ahead") if setting["chosen"] else Cell("")
    why = text_cell(setting["why"] or ABSENT)
    return [setting["method"], f"{setting['learning_rate']:g}", weight, right, percent(share), chosen, why]


def cost_tables(report: Mapping[str, Any]) -> list[Table]:
    """What training and answering take at the largest fraction, one line for each student and method."""
    share = largest_fraction(report)
    training = {key_of(cost): cost for cost in report["cost"]["training"]}
    answers = {(cost["student"], cost["method"]): cost for cost in report["cost"]["answers"]}
    cells = {key_of(group): group["cells"] for group in report["groups"]}
    rows: list[Row] = []
    for student in _students(report):
        for method in methods_of(report):
            key = (student, method, share)
            trained, answered = training.get(key, {}), answers.get(key[:2], {})
            seconds = answered.get("seconds_per_example")
            row = [
                *(student, method, duration(trained.get("seconds")), number(trained.get("gpu_hours"))),
                *(number(trained.get("money")), duration(seconds)),
                *(_mean(cells.get(key, []), name) for name in ("prompt_tokens", "output_tokens")),
                *(tenths(answered.get(f"teacher_{name}_tokens")) for name in ("prompt", "output")),
                number(answered.get("per_1000")),
            ]
            if trained or answered:
                rows.append(row)
    columns, kept = without_empty(
        ["student", "method", "training time#", "GPU-hours#", "training cost#", "time per answer#", "tokens read#", "tokens written#",
         "teacher reads#", "teacher writes#", "cost of 1,000 answers#"], rows, ABSENT,
    )  # fmt: skip
    return (
        [table(f"At {fraction(share)} of the training labels, mean over the seeds", columns, kept, heads=2)]
        if rows
        else []
    )


def training_tables(report: Mapping[str, Any]) -> list[Table]:
    """What each training takes, one table for each student."""
    tables = []
    for student in _students(report):
        rows: list[Row] = [
            [
                *(cost["method"], fraction(cost["fraction"])),
                *(duration(cost["seconds"]), number(cost["gpu_hours"]), number(cost["money"])),
            ]
            for cost in _ordered(report, report["cost"]["training"], student)
        ]
        columns, kept = without_empty(["method", "labels", "time#", "GPU-hours#", "cost#"], rows, ABSENT)
        tables += [table(f"{student}: one training, mean over the seeds", columns, kept, heads=2)] if rows else []
    return tables


def cell_tables(report: Mapping[str, Any]) -> list[Table]:
    """Every cell, one table for each student."""
    columns = ["method", "labels", "seed", "right#", "accuracy#", "no answer#", "training rows#", "steps#", "tokens#", "training time#",
               "GPU-hours#", "time per answer#", "learning rate#", "weight#", "fingerprint"]  # fmt: skip
    tables = []
    for student in _students(report):
        rows: list[Row] = [
            _cell(group, cell) for group in _ordered(report, report["groups"], student) for cell in group["cells"]
        ]
        kept, rows = without_empty(columns, rows, ABSENT)
        count = plural(len(rows), "training", "trainings")
        tables.append(table(f"{student}: {count}, each scored on the held-out examples", kept, rows, heads=3))
    return tables


def _cell(group: Mapping[str, Any], cell: Mapping[str, Any]) -> list[str | Cell]:
    return [
        *(group["method"], fraction(group["fraction"]), str(cell["seed"])),
        *(f"{cell['correct']:,} of {cell['total']:,}", percent(cell["correct"] / cell["total"])),
        *(number(cell[name]) for name in ("unanswered", "train_examples", "steps", "tokens")),
        *(duration(cell["train_s"]), number(cell["gpu_hours"]), duration(cell["seconds_per_example"])),
        f"{cell['learning_rate']:g}",
        ABSENT if cell["weight"] is None else f"{cell['weight']:g}",
        cell["fingerprint"][:12],
    ]


def _students(report: Mapping[str, Any]) -> list[str]:
    """Those with results."""
    found = {group["student"] for group in report["groups"]}
    return [student["name"] for student in report["students"] if student["name"] in found]


def _ordered(report: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], student: str) -> list[Mapping[str, Any]]:
    """A student's rows by method, the smallest fraction first."""
    methods = [*methods_of(report), *dict.fromkeys(row["method"] for row in rows)]
    own = [row for row in rows if row["student"] == student]
    return sorted(own, key=lambda row: (methods.index(row["method"]), row["fraction"]))


def _mean(cells: Sequence[Mapping[str, Any]], name: str) -> str:
    values = [cell[name] for cell in cells if cell[name] is not None]
    return tenths(fmean(values) if values else None)
