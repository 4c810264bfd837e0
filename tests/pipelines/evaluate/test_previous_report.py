import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines.errors import UserError
from pipelines.evaluate.model import Change, Report
from pipelines.evaluate.predictions import predictions
from pipelines.evaluate.previous_report import change_since, read_earlier
from pipelines.scoring.model import report_bytes
from pipelines.scoring.system import System
from pipelines.storage.store import Store
from pipelines.tasks import Example
from tests.support.reports import report, report_tree

NUM = 50


def write_report(folder: Path, num_right: int, *, gold: str = "3", version: str = "2", first: int = 0) -> Report:
    """A report on NUM examples of which the student has the first `num_right` right."""
    examples = [Example(f"e{i}", f"question {i}", gold) for i in range(first, first + NUM)]
    right = tuple(i < num_right for i in range(NUM))
    labels = tuple("3" if is_right else "7" for is_right in right)
    names: tuple[Any, ...] = ("untrained", "student")
    untrained, student = (System(name, labels, right, texts=labels, confidences=(0.5,) * NUM) for name in names)
    systems = {one.name: one for one in (untrained, student, System("teacher"), System("majority"))}
    task, scores = {"name": "arithmetic", "version": version}, [untrained.scores(), student.scores()]
    made = report(run=folder.name, created="2026-01-24T09:00:00+00:00", task=task, systems=scores)
    store = Store(str(folder))
    store.write("report.json", report_bytes(made))
    store.write("predictions.parquet", predictions(examples, systems))
    return made


def change(tmp_path: Path, now: Report) -> Change:
    return change_since(read_earlier(str(tmp_path / "before"), "arithmetic"), now, Store(str(tmp_path / "now")))


def test_the_same_examples_are_paired_by_id(tmp_path: Path) -> None:
    write_report(tmp_path / "before", 20)
    file = tmp_path / "before" / "predictions.parquet"
    pq.write_table(pq.read_table(file).take(list(range(NUM))[::-1]), file)
    found = change(tmp_path, write_report(tmp_path / "now", 28))
    assert found.interval is not None
    assert 0.0 < found.interval[0] < 0.16 < found.interval[1] < 0.3
    assert found.model_dump(exclude={"interval"}) == {
        "run": "before", "created": "2026-01-24T09:00:00+00:00", "accuracy": 0.4, "total": 50, "same_examples": True,
        "difference": 0.16, "better": 8, "worse": 0, "p_value": pytest.approx(2 / 2**8), "note": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"gold": "4"}, "50 examples have another input or gold label"),
        ({"first": 10}, "only 40 of its 50 and these 50 examples have the same id"),
        ({"version": "1"}, "its task has version 1, this one 2"),
        (None, "it has no predictions.parquet"),
    ],
)
def test_other_examples_are_not_paired_with_the_reason(tmp_path: Path, other: Any, reason: str) -> None:
    write_report(tmp_path / "before", 20, **(other or {}))
    if other is None:
        (tmp_path / "before" / "predictions.parquet").unlink()
    found = change(tmp_path, write_report(tmp_path / "now", 28))
    assert (found.same_examples, found.accuracy, found.note) == (False, 0.4, reason)
    assert {found.difference, found.interval, found.better, found.worse, found.p_value} == {None}


@pytest.mark.parametrize("location", ["{}", "{}/", "{}/report.json", "file://{}", "file://{}/report.json"])
def test_a_report_is_named_by_folder_file_or_uri(tmp_path: Path, location: str) -> None:
    write_report(tmp_path / "before", 20)
    assert read_earlier(location.format(tmp_path / "before"), "arithmetic").report.run == "before"


def test_a_report_of_another_format_can_be_compared(tmp_path: Path) -> None:
    write_report(tmp_path / "before", 20)
    tree: Any = {"format": 5, "run": "old", "created": "2025", "task": {"name": "arithmetic", "version": "2"}}
    tree["systems"] = [{"name": "student", "accuracy": 0.4, "total": 50, "new": 1}]
    (tmp_path / "before" / "report.json").write_text(json.dumps(tree))
    assert change(tmp_path, write_report(tmp_path / "now", 28)).better == 8


@pytest.mark.parametrize("how", ["damaged", "cut", "older"])
def test_unreadable_answers_are_refused(tmp_path: Path, how: str) -> None:
    write_report(tmp_path / "before", 20)
    file = tmp_path / "before" / "predictions.parquet"
    if how == "damaged":
        file.write_bytes(b"no Parquet")
    elif how == "cut":
        file.write_bytes(file.read_bytes()[:-50])
    else:
        pq.write_table(pq.read_table(file).drop_columns(["gold"]), file)
    with pytest.raises(UserError, match=r"--baseline .*before: its predictions\.parquet cannot be read \(.*remove the"):
        read_earlier(str(tmp_path / "before"), "arithmetic")
    earlier, now = write_report(tmp_path / "now", 20), tmp_path / "before"
    with pytest.raises(UserError, match=r"before: its predictions\.parquet cannot be read .*makes the report again"):
        change_since(read_earlier(str(tmp_path / "now"), "arithmetic"), earlier, Store(str(now)))


def test_only_a_report_of_the_task_can_be_compared(tmp_path: Path) -> None:
    write_report(tmp_path / "before", 20)
    with pytest.raises(UserError, match="its task is arithmetic, the run's is nli"):
        read_earlier(str(tmp_path / "before"), "nli")
    with pytest.raises(UserError, match=r"--baseline .*nothing: there is no report\.json"):
        read_earlier(str(tmp_path / "nothing"), "arithmetic")
    foreign = ({"format": 1, "run": "a comparison", "groups": []}, report_tree() | {"systems": []})
    for text in ("[]", "{", *map(json.dumps, foreign)):
        (tmp_path / "before" / "report.json").write_text(text)
        with pytest.raises(UserError, match=r"its report\.json is not a report of `raystill evaluate`"):
            read_earlier(str(tmp_path / "before"), "arithmetic")
