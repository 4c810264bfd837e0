"""The tables of a report's page. In: report.json. Out: pipelines.reports.tables.Table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.reports.format import (
    ABSENT,
    clipped,
    duration,
    number,
    p_value,
    percent,
    percents,
    points,
    points_range,
    tenths,
)
from pipelines.reports.tables import Cell, Mark, Row, Table, table, text_cell, without_empty
from pipelines.scoring.statistics import verdict
from pipelines.scoring.system import TITLES

_MOST_COLUMNS = 12
_NO_ANSWER = "(no answer)"
_NAME_CHARACTERS = 60


def systems_table(report: Mapping[str, Any]) -> Table:
    """Every system: how often it is right, and what an answer of it takes."""
    rows: list[Row] = []
    for system in report["systems"]:
        right = ABSENT if system["correct"] is None else f"{system['correct']:,} of {system['total']:,}"
        rows.append(
            [
                Cell(TITLES[system["name"]], "strong" if system["name"] == "student" else ""),
                *(right, Cell(percent(system["accuracy"]), "strong"), percents(system["interval"])),
                number(system["unanswered"]),
                duration(system["seconds_per_example"]),
                *(tenths(system[f"{kind}_tokens_per_example"]) for kind in ("prompt", "output")),
            ]
        )
    columns, kept = without_empty(
        ["system", "right#", "accuracy#", "95% interval#", "no answer#", "time per answer#", "tokens read#", "tokens written#"],
        rows, ABSENT,
    )  # fmt: skip
    return table("The systems, on the same examples", columns, kept)


def comparisons_table(report: Mapping[str, Any]) -> Table:
    """The student against every other system that has answers."""
    rows: list[Row] = [
        [
            TITLES[found["student_vs"]],
            *(Cell(points(found["difference"]), "strong"), points_range(found["difference_interval"])),
            *(number(found["better"]), number(found["worse"]), p_value(found["p_value"])),
            judged(found["difference_interval"]),
        ]
        for found in report["comparisons"]
    ]
    columns = [
        "the student against",
        "ahead by#",
        "95% interval#",
        "only student right#",
        "only other right#",
        "p#",
        "verdict",
    ]
    return table("Points of accuracy by which the student is ahead", columns, rows)


def weights_table(report: Mapping[str, Any]) -> Table | None:
    """The student in other weights against itself in float32; None where there are none."""
    rows: list[Row] = [
        [
            f"{found['weights']} ({found['engine']})",
            Cell(percent(found["accuracy"]), "strong"),
            percents(found["interval"]),
            *(points(found["difference"]), points_range(found["difference_interval"])),
            *(number(found["better"]), number(found["worse"]), p_value(found["p_value"])),
            percent(found["same_label"]),
            duration(found["seconds_per_example"]),
        ]
        for found in report["weights"]
    ]
    columns = ["weights", "accuracy#", "95% interval#", "ahead by#", "95% interval#", "only these right#", "only float32 right#", "p#",
               "same label#", "time per answer#"]  # fmt: skip
    return table("The student in other weights, against itself in float32", columns, rows) if rows else None


def judged(interval: Sequence[float]) -> Cell:
    """What the interval of a difference shows of the student."""
    said = verdict(interval)
    marks: dict[str, tuple[str, Mark]] = {"ahead": ("▲ better", "ahead"), "behind": ("▼ worse", "behind")}
    return Cell(*marks.get(said, (said, "open")))


def calibration_table(report: Mapping[str, Any]) -> Table:
    """The answers by tenths of the student's confidence."""
    rows: list[Row] = [
        [
            f"{10 * tenth} to {10 * (tenth + 1)}%",
            number(one["count"]),
            percent(one["confidence"]),
            percent(one["accuracy"]),
        ]
        for tenth, one in enumerate(report["calibration"]["bins"])
        if one
    ]
    return table("Answers by confidence", ["confidence", "answers#", "mean confidence#", "right#"], rows)


def confusion_table(report: Mapping[str, Any]) -> Table | None:
    """Gold labels against the student's: as a matrix, or as a list where it would be too wide. None where the report has none."""
    if not report["confusion"]:
        return None
    caption = "What the student answers, by the gold label"
    golds = sorted({found["gold"] for found in report["confusion"]})
    others = sorted({found["student"] for found in report["confusion"] if found["student"] is not None} - {*golds})
    answers = [*golds, *others, *([None] if any(found["student"] is None for found in report["confusion"]) else [])]
    if len(answers) > _MOST_COLUMNS:
        listed: list[Row] = [
            [
                clipped(f["gold"], _NAME_CHARACTERS),
                text_cell(_NO_ANSWER if f["student"] is None else f["student"]),
                number(f["count"]),
            ]
            for f in report["confusion"]
        ]
        return table(caption, ["gold", "student", "answers#"], listed)
    counts = {(found["gold"], found["student"]): found["count"] for found in report["confusion"]}
    totals = Counter[str]()
    for (gold, _), count in counts.items():
        totals[gold] += count
    rows: list[Row] = [
        [
            clipped(gold, _NAME_CHARACTERS),
            *(_shaded(counts.get((gold, answer), 0), totals[gold], gold == answer) for answer in answers),
            number(totals[gold]),
        ]
        for gold in golds
    ]
    named = [_NO_ANSWER if answer is None else clipped(answer, _NAME_CHARACTERS) for answer in answers]
    return table(caption, ["gold", *(f"{name}#" for name in named), "all#"], rows)


def _shaded(count: int, total: int, right: bool) -> Cell:
    """A count, the darker the larger its share of the row."""
    marks: tuple[Mark, ...] = ("right1", "right2", "right3") if right else ("wrong1", "wrong2", "wrong3")
    return Cell(number(count), marks[min(int(3 * count / total), 2)] if count else "open")


def errors_table(report: Mapping[str, Any]) -> Table | None:
    """The student's most confident errors; None where it made none."""
    rows: list[Row] = [
        [
            clipped(error["id"], _NAME_CHARACTERS),
            *(text_cell(error[key]) for key in ("input", "gold", "student")),
            text_cell(ABSENT if error["teacher"] is None else error["teacher"]),
            f"{error['confidence']:.2f}",
        ]
        for error in report["errors"]
    ]
    columns, kept = without_empty(["id", "input", "gold", "student", "teacher", "confidence#"], rows, ABSENT)
    return table("Wrong answers, the most confident first", columns, kept) if rows else None
