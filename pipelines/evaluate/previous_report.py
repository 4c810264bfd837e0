"""The student of a report against the one of an earlier report (`raystill evaluate RUN --baseline REPORT`).

In: where the earlier report is, and the run's own report once it is finished. Out: report.json's `baseline`, of the run's own report:

    {"run": "svamp", "created": "...", "accuracy": 0.59, "total": 200, "same_examples": true, "difference": 0.025,
     "interval": [-0.03, 0.08], "better": 19, "worse": 14, "p_value": 0.487, "note": ""}

It is no part of the report's identity: a finished report is not made anew for it, its files are written again with the comparison, which
stays until another one is asked for. The earlier report is read before the stage begins, since it may be the one that the stage replaces.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.errors import UserError, last_line
from pipelines.evaluate.report import PREDICTIONS, REPORT
from pipelines.reports.format import short
from pipelines.scoring.statistics import difference, paired
from pipelines.storage.store import Store

_REASON_CHARACTERS = 120
_Answers = dict[str, tuple[str, str, bool]]
"""id -> (input, gold, whether the student is right)."""


@dataclass(frozen=True)
class Earlier:
    """An earlier report. `answers` is None where predictions.parquet is not beside it."""

    report: dict[str, Any]
    answers: _Answers | None


def read_earlier(where: str, task: str) -> Earlier:
    """Read an earlier report: its folder or its report.json, as a path or URI.

    Raises:
        UserError: there is no report of `raystill evaluate`, its answers cannot be read, or it is one of another task than `task`.
    """
    location, mark, query = where.partition("?")
    location = location.rstrip("/").removesuffix(REPORT).rstrip("/") or "."
    store = Store(location + mark + query)
    key = f"--baseline {store.shown()}"
    if not store.exists(REPORT):
        raise UserError(key, f"there is no {REPORT}", "Give the report folder of a finished evaluation.")
    try:
        report = json.loads(store.read(REPORT))
        found = {
            "task": report["task"]["name"],
            "run": report["run"],
            "created": report["created"],
            "student": _student(report),
        }
    except (ValueError, KeyError, TypeError, StopIteration) as error:
        raise UserError(key, f"its {REPORT} is none of `raystill evaluate`", "Give another report.") from error
    if found["task"] != task:
        raise UserError(key, f"it is of task {found['task']}, the run's is {task}", "Give a report of the same task.")
    return Earlier(report, _earlier_answers(store, key) if store.exists(PREDICTIONS) else None)


def change_since(earlier: Earlier, report: Mapping[str, Any], store: Store) -> dict[str, Any]:
    """report.json's `baseline`: the student of a finished report (`report` and the `store` it is in) against the earlier one.

    Paired where both scored the same examples by the same rules, else only the earlier accuracy, and in `note` why.
    """
    before = _student(earlier.report)
    now = _answers(store)
    why = _differ(earlier, report, now)
    part = {
        "run": earlier.report["run"],
        "created": earlier.report["created"],
        "accuracy": before["accuracy"],
        "total": before["total"],
        "same_examples": not why,
        **dict.fromkeys(("difference", "interval", "better", "worse", "p_value")),
        "note": why,
    }
    if why or earlier.answers is None:
        return part
    rights = [right for _, _, right in now.values()], [earlier.answers[row_id][2] for row_id in now]
    gap = difference(*rights)
    return {**part, "difference": gap.value, "interval": [gap.low, gap.high], **vars(paired(*rights))}


def _differ(earlier: Earlier, report: Mapping[str, Any], now: _Answers) -> str:
    """Why the two reports cannot be compared example by example; empty where they can."""
    before = earlier.answers
    versions = earlier.report["task"]["version"], report["task"]["version"]
    if versions[0] != versions[1]:
        return f"it scored by version {versions[0]} of the task, this one by {versions[1]}"
    if before is None:
        return f"there is no {PREDICTIONS} beside it"
    if before.keys() != now.keys():
        shared = len(before.keys() & now.keys())
        return f"of its {len(before):,} examples and these {len(now):,} only {shared:,} have the same id"
    changed = sum(before[row_id][:2] != now[row_id][:2] for row_id in now)
    return f"{changed:,} examples have another input or gold label" if changed else ""


def _student(report: Mapping[str, Any]) -> dict[str, Any]:
    student = next(system for system in report["systems"] if system["name"] == "student")
    return {"accuracy": float(student["accuracy"]), "total": int(student["total"])}


def _earlier_answers(store: Store, key: str) -> _Answers:
    """Raises UserError where the file is damaged, or has not the columns that this version writes."""
    try:
        return _answers(store)
    except (pa.ArrowException, OSError, KeyError) as error:
        rule = f"its {PREDICTIONS} cannot be read ({short(last_line(error), _REASON_CHARACTERS)})"
        remedy = "Restore it, give another report, or remove the file: then the accuracies alone are shown."
        raise UserError(key, rule, remedy) from error


def _answers(store: Store) -> _Answers:
    import pyarrow.parquet as pq

    with store.fs.open_input_file(store.path(PREDICTIONS)) as file:
        rows = pq.read_table(file, columns=["id", "input", "gold", "student_right"]).to_pylist()
    return {row["id"]: (row["input"], row["gold"], row["student_right"]) for row in rows}
