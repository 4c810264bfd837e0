from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import UserError
from pipelines.evaluate import report
from pipelines.evaluate.previous_report import change_since, read_earlier
from pipelines.scoring.system import System
from pipelines.storage.store import Store
from pipelines.tasks import Example

NUM = 50


def write_report(
    folder: Path, num_right: int, *, gold: str = "3", created: str = "2026-01-24", version: str = "2", **ids: int
) -> dict[str, Any]:
    """A report on NUM examples of which the student has the first `num_right` right; with what `change_since` and `read_earlier` read."""
    first = ids.get("first", 0)
    examples = [Example(f"e{i}", f"question {i}", gold) for i in range(first, first + NUM)]
    right = tuple(i < num_right for i in range(NUM))
    labels = tuple("3" if is_right else "7" for is_right in right)
    student = System("student", labels, right, texts=labels, confidences=(0.5,) * NUM)
    untrained = System("untrained", labels, right, texts=labels, confidences=(0.5,) * NUM)
    made = {
        "run": folder.name,
        "created": f"{created}T09:00:00+00:00",
        "task": {"name": "arithmetic", "version": version},
        "systems": [untrained.row(), student.row()],
    }
    store = Store(str(folder))
    store.write("report.json", json.dumps(made).encode())
    store.write(
        "predictions.parquet", report.predictions(examples, [student, untrained, System("teacher"), System("majority")])
    )
    return made


def change(tmp_path: Path, now: dict[str, Any]) -> dict[str, Any]:
    return change_since(read_earlier(str(tmp_path / "before"), "arithmetic"), now, Store(str(tmp_path / "now")))


def test_the_same_examples_are_paired(tmp_path: Path) -> None:
    write_report(tmp_path / "before", 20)
    found = change(tmp_path, write_report(tmp_path / "now", 28))
    low, high = found.pop("interval")
    assert 0.0 < low < 0.16 < high < 0.3
    assert found == {
        "run": "before", "created": "2026-01-24T09:00:00+00:00", "accuracy": 0.4, "total": 50, "same_examples": True,
        "difference": 0.16, "better": 8, "worse": 0, "p_value": pytest.approx(2 / 2**8), "note": "",
    }  # fmt: skip


def test_they_are_joined_by_id_and_not_by_order(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    now = write_report(tmp_path / "now", 28)
    write_report(tmp_path / "before", 28)
    file = tmp_path / "before" / "predictions.parquet"
    pq.write_table(pq.read_table(file).take(list(range(NUM))[::-1]), file)
    found = change(tmp_path, now)
    assert (found["better"], found["worse"], found["same_examples"]) == (0, 0, True)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"gold": "4"}, "50 examples have another input or gold label"),
        ({"first": 10}, "of its 50 examples and these 50 only 40 have the same id"),
        ({"version": "1"}, "it scored by version 1 of the task, this one by 2"),
    ],
)
def test_other_examples_are_not_paired_and_it_says_why(tmp_path: Path, other: dict[str, Any], why: str) -> None:
    write_report(tmp_path / "before", 20, **other)
    found = change(tmp_path, write_report(tmp_path / "now", 28))
    assert (found["same_examples"], found["accuracy"], found["note"]) == (False, 0.4, why)
    assert {found[key] for key in ("difference", "interval", "better", "worse", "p_value")} == {None}


def test_without_predictions_there_are_only_the_accuracies(tmp_path: Path) -> None:
    write_report(tmp_path / "before", 20)
    (tmp_path / "before" / "predictions.parquet").unlink()
    found = change(tmp_path, write_report(tmp_path / "now", 28))
    assert (found["same_examples"], found["note"]) == (False, "there is no predictions.parquet beside it")


@pytest.mark.parametrize("where", ["{}", "{}/", "{}/report.json", "file://{}", "file://{}/report.json"])
def test_a_report_is_named_by_folder_or_file_or_uri(tmp_path: Path, where: str) -> None:
    write_report(tmp_path / "before", 20)
    assert read_earlier(where.format(tmp_path / "before"), "arithmetic").report["run"] == "before"


@pytest.mark.parametrize("how", ["damaged", "cut", "older"])
def test_answers_that_cannot_be_read_are_refused(tmp_path: Path, how: str) -> None:
    import pyarrow.parquet as pq

    write_report(tmp_path / "before", 20)
    file = tmp_path / "before" / "predictions.parquet"
    if how == "damaged":
        file.write_bytes(b"no Parquet")
    elif how == "cut":
        file.write_bytes(file.read_bytes()[:-50])
    else:
        pq.write_table(pq.read_table(file).drop_columns(["gold"]), file)
    with pytest.raises(
        UserError, match=r"--baseline .*before: its predictions\.parquet cannot be read \(.*or remove the file"
    ):
        read_earlier(str(tmp_path / "before"), "arithmetic")


def test_what_is_no_report_of_the_task_is_refused(tmp_path: Path) -> None:
    write_report(tmp_path / "before", 20)
    with pytest.raises(UserError, match="it is of task arithmetic, the run's is nli"):
        read_earlier(str(tmp_path / "before"), "nli")
    with pytest.raises(UserError, match=r"--baseline .*nothing: there is no report\.json"):
        read_earlier(str(tmp_path / "nothing"), "arithmetic")
    for text in ("[]", "{", json.dumps({"format": 1, "run": "a comparison", "groups": []})):
        (tmp_path / "before" / "report.json").write_text(text)
        with pytest.raises(UserError, match=r"its report\.json is none of `raystill evaluate`"):
            read_earlier(str(tmp_path / "before"), "arithmetic")
