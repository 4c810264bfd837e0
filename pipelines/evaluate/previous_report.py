"""Comparison with an earlier report (`raystill evaluate RUN --baseline REPORT`): report.json's `baseline`.

The comparison is not part of the report's fingerprint. A finished report keeps its scores, and its files are written again with the
comparison, which stays until another one is requested. The earlier report is read before the stage begins, since the stage may replace
it.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
from pydantic import BaseModel, ValidationError

from pipelines.errors import UserError, last_line
from pipelines.evaluate.model import Change, Report
from pipelines.evaluate.predictions import PREDICTIONS
from pipelines.reports.format import short
from pipelines.scoring.model import REPORT
from pipelines.scoring.statistics import versus
from pipelines.storage.store import Store

_REASON_CHARACTERS = 120
_Answers = dict[str, tuple[str, str, bool]]
"""id -> (input, gold, True if the student is right)."""


class _Task(BaseModel):
    name: str
    version: str


class _System(BaseModel):
    name: str
    accuracy: float | None
    total: int | None


class EarlierReport(BaseModel):
    """The keys of report.json that a comparison needs. Every format of the report has them."""

    run: str
    created: str
    task: _Task
    systems: list[_System]

    @property
    def student(self) -> tuple[float, int] | None:
        """Accuracy of the student and number of examples; None if the report has none."""
        for system in self.systems:
            if system.name == "student" and system.accuracy is not None and system.total is not None:
                return system.accuracy, system.total
        return None


@dataclass(frozen=True)
class Earlier:
    """An earlier report."""

    report: EarlierReport
    accuracy: float
    total: int
    answers: _Answers | None
    """None without predictions.parquet beside the report."""


def read_earlier(location: str, task: str) -> Earlier:
    """Read an earlier report. `location`: its folder or its report.json, as a path or URI.

    Raises:
        UserError: there is no report of `raystill evaluate`, its answers cannot be read, or its task is not `task`.
    """
    path, mark, query = location.partition("?")
    folder = path.rstrip("/").removesuffix(REPORT).rstrip("/") or "."
    store = Store(folder + mark + query)
    key = f"--baseline {store.shown()}"
    if not store.exists(REPORT):
        raise UserError(key, f"there is no {REPORT}", "Give the report folder of a finished evaluation.")
    try:
        report: EarlierReport | None = EarlierReport.model_validate_json(store.read(REPORT))
    except ValidationError:
        report = None
    if report is None or report.student is None:
        raise UserError(key, f"its {REPORT} is not a report of `raystill evaluate`", "Give another report.")
    if report.task.name != task:
        raise UserError(key, f"its task is {report.task.name}, the run's is {task}", "Give a report of the same task.")
    remedy = "Restore it, give another report, or remove the file to compare only the accuracies."
    answers = _readable_answers(store, key, remedy) if store.exists(PREDICTIONS) else None
    return Earlier(report, *report.student, answers)


def change_since(earlier: Earlier, report: Report, store: Store) -> Change:
    """The student of a finished report against the earlier one.

    Paired if both scored the same examples by the same rules. Otherwise it has only the earlier accuracy, and the reason in `note`.

    Args:
        store: the folder of `report`.
    """
    now = _readable_answers(store, store.shown(), f"Remove {PREDICTIONS}; the same command makes the report again.")
    reason = _why_unpaired(earlier, report, now)
    change = Change(
        run=earlier.report.run,
        created=earlier.report.created,
        accuracy=earlier.accuracy,
        total=earlier.total,
        same_examples=not reason,
        difference=None,
        interval=None,
        better=None,
        worse=None,
        p_value=None,
        note=reason,
    )
    if reason or earlier.answers is None:
        return change
    rights = [right for _, _, right in now.values()], [earlier.answers[row_id][2] for row_id in now]
    measured = versus(*rights)
    measured["interval"] = measured.pop("difference_interval")
    return change.model_copy(update=measured)


def _why_unpaired(earlier: Earlier, report: Report, now: _Answers) -> str:
    """Why the two reports cannot be compared example by example; empty if they can."""
    before = earlier.answers
    if earlier.report.task.version != report.task.version:
        return f"its task has version {earlier.report.task.version}, this one {report.task.version}"
    if before is None:
        return f"it has no {PREDICTIONS}"
    if before.keys() != now.keys():
        shared = len(before.keys() & now.keys())
        return f"only {shared:,} of its {len(before):,} and these {len(now):,} examples have the same id"
    changed = sum(before[row_id][:2] != now[row_id][:2] for row_id in now)
    return f"{changed:,} examples have another input or gold label" if changed else ""


def _readable_answers(store: Store, value: str, remedy: str) -> _Answers:
    """Raises UserError if the file is damaged or lacks a column."""
    try:
        return _answers(store)
    except (pa.ArrowException, OSError, KeyError) as error:
        rule = f"its {PREDICTIONS} cannot be read ({short(last_line(error), _REASON_CHARACTERS)})"
        raise UserError(value, rule, remedy) from error


def _answers(store: Store) -> _Answers:
    import pyarrow.parquet as pq

    with store.fs.open_input_file(store.path(PREDICTIONS)) as file:
        rows = pq.read_table(file, columns=["id", "input", "gold", "student_right"]).to_pylist()
    return {row["id"]: (row["input"], row["gold"], row["student_right"]) for row in rows}
