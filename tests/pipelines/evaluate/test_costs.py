from pathlib import Path

import pytest

from pipelines.evaluate.costs import student_cost, student_facts
from pipelines.scoring.costs import per_1000, teacher_cost, teacher_facts, training_s
from tests.support.artifacts import label_row, make_run, write_labels, write_student_manifest

ROWS = [label_row("a", "3"), label_row("b", "4")]


def test_costs_come_from_manifests_and_a_workers_price(tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "labels", ROWS)
    labels.details["tokens"] = {"prompt": 812_000, "output": 46_000}
    labels.details |= {"gpu_hours": 1.24, "cost": {"amount": 3.1, "basis": "1.24 GPU-hours at 2.5"}}
    run = make_run(tmp_path, training={"gpus_per_worker": 1})
    student = write_student_manifest(tmp_path / "student", run, labels)
    student.timings_s["steps"] = 1800.0  # most of them in an earlier attempt
    assert training_s(student) == 1800.0
    cost = student_cost(labels, student, 0.5, 2.0)
    assert cost.model_dump() == {
        "teacher": {"prompt_tokens": 812_000, "output_tokens": 46_000, "gpu_hours": 1.24, "money": 3.1},
        "training": {"seconds": 1800.0, "gpu_hours": 1.0, "money": 2.0},
        "answers": {"seconds_per_example": 0.5, "per_1000": pytest.approx(1000 * 0.5 / 3600 * 2.0)},
    }
    assert dict(teacher_facts(cost.teacher))["Teacher GPU-hours"] == "1.24"
    assert dict(student_facts(cost))["Training time"] == "30 min 00 s"


def test_unknown_costs_are_no_facts(tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "labels", ROWS)
    labels.details["tokens"] = {"prompt": 0, "output": 0}  # a recording
    assert teacher_facts(teacher_cost(labels)) == []
    student = write_student_manifest(tmp_path / "student", make_run(tmp_path), labels)
    facts = dict(student_facts(student_cost(labels, student, None, None)))
    assert facts == {"Training time": "20 s", "Training GPU-hours": "0"}
    assert per_1000(0.5, None) is per_1000(None, 2.0) is None
