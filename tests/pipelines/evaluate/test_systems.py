from __future__ import annotations

from pathlib import Path

from pipelines.artifacts import Store
from pipelines.evaluate.baselines import Majority, TeacherAnswer, teacher_answers
from pipelines.evaluate.systems import majority_system, student_inputs, teacher_system
from pipelines.tasks import Example
from pipelines.tasks.arithmetic import Arithmetic
from tests.pipelines.evaluate.made import label_row, make_run, write_labels


def test_only_a_student_that_reads_rationales_gets_the_teachers(tmp_path: Path) -> None:
    examples = [Example("h1", "one", "3"), Example("h2", "two", "8")]
    answers = {"h1": TeacherAnswer("3", "4 - 1 = 3")}
    assert student_inputs(make_run(tmp_path), answers, examples) == ["one", "two"]
    reads_them = make_run(tmp_path, student={"model": "none", "method": "rationale-as-input"})
    assert student_inputs(reads_them, answers, examples) == ["one [rationale] 4 - 1 = 3", "two [rationale] "]


def test_an_example_that_the_teacher_left_open_is_wrong_and_counted(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    heldout = [label_row("h1", "3"), label_row("h2", "9"), label_row("other", "4")]
    write_labels(tmp_path / "labels", [label_row("a", "3")], heldout)
    examples = [Example("h1", "one", "4 - 1"), Example("h2", "two", "8"), Example("h3", "three", "4")]
    answers = teacher_answers(Store(str(tmp_path / "labels")), run.corpus, [e.id for e in examples])
    teacher = teacher_system(run, Arithmetic(), answers, examples)
    assert teacher.right == (True, False, False)
    assert teacher.row()["unanswered"] == 1


def test_a_teacher_without_answers_says_so(tmp_path: Path) -> None:
    teacher = teacher_system(make_run(tmp_path), Arithmetic(), {}, [Example("h1", "one", "3")])
    assert teacher.right == ()
    assert "none of its answers" in teacher.note


def test_majority_is_scored_by_value() -> None:
    examples = [Example("h1", "one", "4 - 1"), Example("h2", "two", "8")]
    system = majority_system(Arithmetic(), Majority("1 + 2", 5, 9, "gold"), examples)
    assert system.right == (True, False)
    assert system.note == "`1 + 2`, the label of 5 of 9 training rows"
