"""Tables of a comparison's page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import TypeVar

from pipelines.compare.model import CellScores, ComparisonReport, Group, GroupKey, Search, Trial
from pipelines.compare.page_figures import LINE_TITLES, largest_fraction, methods_of
from pipelines.reports.format import (
    ABSENT,
    duration,
    fraction,
    number,
    p_value,
    percent,
    percents,
    plural,
    points,
    points_range,
    tenths,
)
from pipelines.reports.tables import Cell, Row, Table, table, text_cell, without_empty
from pipelines.scoring.verdicts import verdict_cell

_ALL_STUDENTS = "all"
_Keyed = TypeVar("_Keyed", bound=GroupKey)


def accuracy_tables(report: ComparisonReport) -> list[Table]:
    """Accuracy, length and cost of a training per method and fraction, a table per student; and the lines."""
    columns = ["method", "labels", "accuracy#", "95% interval#", "seeds#", "training rows (mean)#", "optimizer steps (mean)#",
               "tokens trained on (mean)#", "training time (mean)#", "GPU-hours (mean)#", "training cost (mean)#"]  # fmt: skip
    money = {cost.place: cost.money for cost in report.cost.training}
    sizes = {student.name: number(student.parameters) for student in report.students}
    tables = []
    for student in _students(report):
        rows: list[Row] = [
            [
                *(group.title, fraction(group.fraction), percent(group.accuracy), percents(group.interval)),
                str(len(group.cells)),
                *map(number, (group.train_examples, group.steps, group.tokens)),
                duration(fmean(cell.train_s for cell in group.cells)),
                *(_mean([cell.gpu_hours for cell in group.cells], number), number(money.get(group.place))),
            ]
            for group in _ordered(report, report.groups, student)
        ]
        kept, rows = without_empty(columns, rows, ABSENT)
        caption = f"{student}, {sizes[student]} parameters: mean accuracy over seeds"
        tables.append(table(caption, kept, rows, heads=2))
    return [*tables, *_line_tables(report)]


def _line_tables(report: ComparisonReport) -> list[Table]:
    rows: list[Row] = [
        [
            *(LINE_TITLES[line.name], line.student or _ALL_STUDENTS),
            ABSENT if line.correct is None else f"{line.correct:,} of {line.total:,}",
            *(percent(line.accuracy), percents(line.interval), text_cell(line.note)),
        ]
        for line in report.lines
    ]
    columns, kept = without_empty(["system", "student", "right#", "accuracy#", "95% interval#", "note"], rows, "")
    return [table("Systems beside the trained students", columns, kept, heads=2)] if rows else []


def difference_tables(report: ComparisonReport) -> list[Table]:
    """Differences to the baseline and to the controls, a table per student."""
    columns = [
        "method",
        "labels",
        "compared with",
        "points#",
        "95% interval#",
        "verdict",
        "seeds#",
        "corrected p#",
        "reason",
    ]
    tables = []
    for student in _students(report):
        rows: list[Row] = [
            [
                *(found.title, fraction(found.fraction), found.versus or report.baseline),
                *(Cell(points(found.difference), "strong"), points_range(found.interval)),
                *(verdict_cell(found.shown), str(found.seeds)),
                *(p_value(found.adjusted_p), found.why or ABSENT),
            ]
            for found in _ordered(report, report.differences, student)
        ]
        if rows:
            kept, rows = without_empty(columns, rows, ABSENT)
            tables.append(table(f"{student}: accuracy minus that of another", kept, rows, heads=2))
    return tables


def arm_tables(report: ComparisonReport) -> list[Table]:
    """The controls, with the reason for those that the grid lacks."""
    rows: list[Row] = [[arm.name, "yes" if arm.applies else "no", text_cell(arm.note or ABSENT)] for arm in report.arms]
    return [table("Controls", ["control", "in this grid", "reason"], rows)] if rows else []


def search_tables(search: Search) -> list[Table]:
    """The settings that were tried, a table per student."""
    tables = []
    for student in dict.fromkeys(trial.student for trial in search.settings):
        rows: list[Row] = [_trial(trial) for trial in search.settings if trial.student == student]
        columns, rows = without_empty(
            [
                "method",
                "learning rate",
                "weight#",
                "steps#",
                f"right on {search.split}#",
                "accuracy#",
                "chosen",
                "failure",
            ],
            rows,
            ABSENT,
        )
        tables.append(table(f"{student}: settings tried", columns, rows, heads=2))
    return tables


def _trial(trial: Trial) -> list[str | Cell]:
    accuracy = trial.correct / trial.total if trial.correct is not None and trial.total else None
    return [
        *(trial.method, f"{trial.learning_rate:g}", _weight(trial.weight), number(trial.steps)),
        ABSENT if trial.correct is None else f"{trial.correct:,} of {trial.total:,}",
        percent(accuracy),
        Cell("✓ chosen", "better") if trial.chosen else Cell(""),
        text_cell(trial.why or ABSENT),
    ]


def cost_tables(report: ComparisonReport) -> list[Table]:
    """Cost of training and answers at the largest fraction, a line per student and method."""
    share = largest_fraction(report)
    training = {cost.place: cost for cost in report.cost.training}
    answers = {(cost.student, cost.method): cost for cost in report.cost.answers}
    rows: list[Row] = []
    for student in _students(report):
        for group in _ordered(report, [group for group in report.groups if group.fraction == share], student):
            trained, answered = training.get(group.place), answers.get((student, group.method))
            if trained and answered:
                rows.append(
                    [
                        *(student, group.title, duration(trained.seconds)),
                        *(number(trained.gpu_hours), number(trained.money), duration(answered.seconds_per_example)),
                        _mean([cell.prompt_tokens for cell in group.cells]),
                        _mean([cell.output_tokens for cell in group.cells]),
                        *(tenths(answered.teacher_prompt_tokens), tenths(answered.teacher_output_tokens)),
                        number(answered.per_1000),
                    ]
                )
    columns, kept = without_empty(
        ["student", "method", "training time#", "GPU-hours#", "training cost#", "time per answer#", "tokens read#", "tokens written#",
         "teacher reads#", "teacher writes#", "cost of 1,000 answers#"], rows, ABSENT,
    )  # fmt: skip
    caption = f"With {fraction(share)} of the training labels, mean over seeds"
    return [table(caption, columns, kept, heads=2)] if rows else []


def cell_tables(report: ComparisonReport) -> list[Table]:
    """Every cell, a table per student."""
    columns = ["method", "labels", "seed", "right#", "accuracy#", "unanswered#", "training rows#", "steps#", "tokens#", "training time#",
               "GPU-hours#", "time per answer#", "learning rate#", "weight#", "fingerprint"]  # fmt: skip
    tables = []
    for student in _students(report):
        rows: list[Row] = [
            _cell(group, cell) for group in _ordered(report, report.groups, student) for cell in group.cells
        ]
        kept, rows = without_empty(columns, rows, ABSENT)
        tables.append(table(f"{student}: {plural(len(rows), 'training')}", kept, rows, heads=3))
    return tables


def _cell(group: Group, cell: CellScores) -> list[str | Cell]:
    return [
        *(group.title, fraction(group.fraction), str(cell.seed)),
        *(f"{cell.correct:,} of {cell.total:,}", percent(cell.correct / cell.total)),
        *map(number, (cell.unanswered, cell.train_examples, cell.steps, cell.tokens)),
        *(duration(cell.train_s), number(cell.gpu_hours), duration(cell.seconds_per_example)),
        *(f"{cell.learning_rate:g}", _weight(cell.weight), cell.fingerprint[:12]),
    ]


def _weight(weight: float | None) -> str:
    return ABSENT if weight is None else f"{weight:g}"


def _students(report: ComparisonReport) -> list[str]:
    """Students with results."""
    found = {group.student for group in report.groups}
    return [student.name for student in report.students if student.name in found]


def _ordered(report: ComparisonReport, rows: Sequence[_Keyed], student: str) -> list[_Keyed]:
    """A student's rows by method, small fractions first."""
    methods = [*methods_of(report), *dict.fromkeys(row.method for row in rows)]
    own = [row for row in rows if row.student == student]
    treated = (None, "shuffled-rationales", "gold-only", "gold-else-teacher")
    return sorted(
        own,
        key=lambda row: (
            row.gold_fraction or 0.0, methods.index(row.method), treated.index(row.treatment), row.fraction,
        ),
    )  # fmt: skip


def _mean(counts: Sequence[float | None], shown: Callable[[float | None], str] = tenths) -> str:
    known = [count for count in counts if count is not None]
    return shown(fmean(known) if known else None)
