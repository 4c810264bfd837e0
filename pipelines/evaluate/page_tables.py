"""Tables of a report's page."""

from __future__ import annotations

from collections import Counter

from pipelines.evaluate.model import Report
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
from pipelines.scoring.system import TITLES, engine_text
from pipelines.scoring.verdicts import verdict_cell

_MAX_COLUMNS = 12
_NO_ANSWER = "(no answer)"
_NAME_CHARACTERS = 60


def systems_table(report: Report) -> Table:
    """Accuracy and cost of an answer of every system."""
    rows: list[Row] = []
    for system in report.systems:
        right = ABSENT if system.correct is None else f"{system.correct:,} of {system.total:,}"
        rows.append(
            [
                Cell(TITLES[system.name], "strong" if system.name == "student" else ""),
                *(right, Cell(percent(system.accuracy), "strong"), percents(system.interval)),
                engine_text(system) or ABSENT,
                *(number(system.unanswered), duration(system.seconds_per_example)),
                *(tenths(system.prompt_tokens_per_example), tenths(system.output_tokens_per_example)),
            ]
        )
    columns, kept = without_empty(
        ["system", "right#", "accuracy#", "95% interval#", "engine", "unanswered#", "time per answer#", "tokens read#", "tokens written#"],
        rows, ABSENT,
    )  # fmt: skip
    return table("Systems on the same examples", columns, kept)


def comparisons_table(report: Report) -> Table:
    """The student against every other system that has answers."""
    rows: list[Row] = [
        [
            TITLES[found.student_vs],
            *(Cell(points(found.difference), "strong"), points_range(found.difference_interval)),
            *(number(found.better), number(found.worse), p_value(found.p_value)),
            verdict_cell(verdict(found.difference_interval)),
        ]
        for found in report.comparisons
    ]
    columns = [
        "student versus", "points#", "95% interval#", "only student right#", "only other right#", "p#", "student is",
    ]  # fmt: skip
    return table("Accuracy of the student minus that of the other systems", columns, rows)


def quantized_table(report: Report) -> Table | None:
    """The student in other weights against itself in float32; None if there are none."""
    rows: list[Row] = [
        [
            f"{found.weights} ({found.engine})",
            *(Cell(percent(found.accuracy), "strong"), percents(found.interval)),
            *(points(found.difference), points_range(found.difference_interval)),
            *(number(found.better), number(found.worse), p_value(found.p_value)),
            *(percent(found.same_label), duration(found.seconds_per_example)),
        ]
        for found in report.weights
    ]
    columns = ["weights", "accuracy#", "95% interval#", "points#", "95% interval#", "only these right#", "only float32 right#", "p#",
               "same label#", "time per answer#"]  # fmt: skip
    return table("Student in other weights, against itself in float32", columns, rows) if rows else None


def calibration_table(report: Report) -> Table:
    """The answers by tenths of confidence."""
    rows: list[Row] = [
        [f"{10 * tenth} to {10 * (tenth + 1)}%", number(one.count), percent(one.confidence), percent(one.accuracy)]
        for tenth, one in enumerate(report.calibration.bins)
        if one
    ]
    return table("Answers by confidence", ["confidence", "answers#", "mean confidence#", "accuracy#"], rows)


def confusion_table(report: Report) -> Table | None:
    """Gold labels against the student's, as a matrix, or as a list if it is too wide. None if the report has no counts."""
    if not report.confusion:
        return None
    caption = "Answers of the student by gold label"
    golds = sorted({found.gold for found in report.confusion})
    others = sorted({found.student for found in report.confusion if found.student is not None} - {*golds})
    answers = [*golds, *others, *([None] if any(found.student is None for found in report.confusion) else [])]
    if len(answers) > _MAX_COLUMNS:
        listed: list[Row] = [
            [
                clipped(found.gold, _NAME_CHARACTERS),
                text_cell(_NO_ANSWER if found.student is None else found.student),
                number(found.count),
            ]
            for found in report.confusion
        ]
        return table(caption, ["gold", "student", "answers#"], listed)
    counts = {(found.gold, found.student): found.count for found in report.confusion}
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
    """A count, darker for a larger share of the row."""
    marks: tuple[Mark, ...] = ("right1", "right2", "right3") if right else ("wrong1", "wrong2", "wrong3")
    return Cell(number(count), marks[min(int(3 * count / total), 2)] if count else "open")


def errors_table(report: Report) -> Table | None:
    """The student's most confident errors; None if it made none."""
    rows: list[Row] = [
        [
            clipped(error.id, _NAME_CHARACTERS),
            *map(
                text_cell, (error.input, error.gold, error.student, ABSENT if error.teacher is None else error.teacher)
            ),
            f"{error.confidence:.2f}",
        ]
        for error in report.errors
    ]
    columns, kept = without_empty(["id", "input", "gold", "student", "teacher", "confidence#"], rows, ABSENT)
    return table("Wrong answers by confidence", columns, kept) if rows else None
