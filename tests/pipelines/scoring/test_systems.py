from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import RunConfig
from pipelines.data.heldout import Heldout
from pipelines.errors import UserError
from pipelines.scoring.predict import Prediction, PredictorPool, Respondent
from pipelines.scoring.reference_systems import Majority, TeacherAnswer, TeacherAnswers, teacher_answers
from pipelines.scoring.system import System
from pipelines.scoring.systems import (
    heldout_part,
    majority_system,
    student_inputs,
    student_rationales,
    student_system,
    teacher_rationales,
    teacher_system,
)
from pipelines.storage.store import Store
from pipelines.students.decoding import Student
from pipelines.tasks import Example
from pipelines.tasks.arithmetic import Arithmetic
from pipelines.tasks.multiple_choice import MultipleChoice
from tests.support.artifacts import label_row, make_run, write_labels


def test_only_a_student_that_reads_rationales_gets_the_teachers(tmp_path: Path) -> None:
    examples = [Example("h1", "one", "3"), Example("h2", "two", "8")]
    answers = TeacherAnswers({"h1": TeacherAnswer("3", "4 - 1 = 3", 9, 5)})
    assert student_inputs(make_run(tmp_path), answers, examples) == ["one", "two"]
    reads_them = make_run(tmp_path, student={"model": "none", "method": "rationale-as-input"})
    assert student_inputs(reads_them, answers, examples) == ["one [rationale] 4 - 1 = 3", "two [rationale] "]
    with pytest.raises(UserError, match=r"hold none to the 2 held-out examples; .*with the gold label as a hint"):
        student_inputs(reads_them, TeacherAnswers(hinted=True), examples)


@dataclass(frozen=True)
class Nowhere:
    """A source that is never loaded: predict and sample are replaced."""

    def load(self, device: str) -> Student:
        raise AssertionError("nothing is asked")


def nobody(run: RunConfig) -> Respondent:
    return PredictorPool(run.evaluation).of(Nowhere())


def said(text: str, confidence: float = 0.9, too_long: bool = False) -> Prediction:
    return Prediction(text, confidence, prompt_tokens=10, output_tokens=3, seconds=0.25, too_long=too_long)


EXAMPLES = [Example("h1", "one", "3"), Example("h2", "two", "8"), Example("h3", "three", "4")]


def test_several_answers_are_one_by_vote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = [
        (said("4"), said("4 - 1"), said("?"), said("3")),
        (said("?"), said("what"), said(""), said("!")),
        tuple(said("", 0.0, too_long=True) for _ in range(4)),
    ]
    monkeypatch.setattr("pipelines.scoring.systems.sample", lambda *_: drawn)
    run = make_run(tmp_path, evaluation={"samples": {"n": 4}})
    found = student_system("student", nobody(run), run, Arithmetic(), EXAMPLES, ["one", "two", "three"])
    assert found.labels == ("4 - 1", None, None)
    assert found.right == (True, False, False)
    assert found.texts == ("4 - 1", "?", "")
    assert found.confidences == (0.5, 0.0, 0.0)
    assert (found.too_long, found.prompt_tokens, found.output_tokens, found.answering_s) == (1, 120, 36, 3.0)


def test_a_greedy_answer_keeps_its_confidence_and_a_text_its_rationale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["4 - 1 = 3. The answer is (4 - 1).", "no end of talk", "The answer is 4."]
    monkeypatch.setattr("pipelines.scoring.systems.predict", lambda *_: [said(text) for text in texts])
    run = make_run(tmp_path, student={"model": "none", "method": "rationale-then-label"})
    found = student_system("student", nobody(run), run, Arithmetic(), EXAMPLES, ["one", "two", "three"])
    assert found.labels == ("4 - 1", None, "4")
    assert found.confidences == (0.9, 0.9, 0.9)
    assert found.rationales == ("4 - 1 = 3.", "no end of talk", "")
    written = student_rationales(nobody(run), run, EXAMPLES, [], found)
    assert [(one.rationale, one.label) for one in written] == list(zip(found.rationales, found.labels, strict=True))


def test_students_are_asked_with_the_labels_that_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("pipelines.scoring.systems.predict", lambda *given: asked.append(given) or [said("sea")] * 2)
    choices = [Example("h1", "one", "sea", ("sea", "river")), Example("h2", "two", "sea", ("Sea", "lake"))]
    run = make_run(tmp_path)
    student_system("student", nobody(run), run, MultipleChoice(), choices, ["one", "two"])
    student_system("student", nobody(run), run, Arithmetic(), EXAMPLES[:2], ["one", "two"])
    assert [given[-1] for given in asked] == [[("sea", "river"), ("Sea", "lake")], [(), ()]]


def test_rationales_of_their_own_are_asked_for_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def predict(student: Any, inputs: list[str], title: str, part: str) -> list[Prediction]:
        asked.append((inputs, part))
        return [said(f"because {text}", too_long=text == "two") for text in inputs]

    monkeypatch.setattr("pipelines.scoring.systems.predict", predict)
    student = System("student", labels=("3", None, "4"), right=(True, False, True))
    run = make_run(tmp_path)
    written = student_rationales(nobody(run), run, EXAMPLES, ["one", "two", "three"], student)
    assert asked == [(["one", "two", "three"], "rationale")]
    assert [(one.rationale, one.label, one.example.id) for one in written] == [
        ("because one", "3", "h1"),
        ("because three", "4", "h3"),
    ]
    finetuned = make_run(tmp_path, student={"model": "none", "method": "finetune"})
    assert student_rationales(nobody(run), finetuned, EXAMPLES, [], student) == []
    answers = TeacherAnswers({"h2": TeacherAnswer("8", "4 * 2 = 8", 9, 5)})
    assert [one.rationale for one in teacher_rationales(answers, EXAMPLES)] == ["4 * 2 = 8"]


def test_rows_that_cannot_be_read_are_counted_and_listed(tmp_path: Path) -> None:
    bad, again = tuple((f"bad{i}", "no label") for i in range(130)), tuple(f"again{i}" for i in range(120))
    heldout = Heldout((*EXAMPLES, Example("open", "four", None)), bad, again)
    found = heldout_part(make_run(tmp_path), heldout, 3)
    assert (found["split"], found["scored"], found["without_gold"]) == ("test", 3, {"count": 1, "ids": ["open"]})
    assert (found["duplicates"]["count"], found["duplicates"]["ids"]) == (120, [f"again{i}" for i in range(100)])
    assert found["unreadable"]["count"] == 130
    assert found["unreadable"]["ids"] == [f"bad{i}" for i in range(100)]
    assert found["unreadable"]["problems"][99] == {"id": "bad99", "problem": "no label"}


def test_an_example_that_the_teacher_left_open_is_wrong_and_counted(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    heldout = [label_row("h1", "3", text="one"), label_row("h2", "9", text="two"), label_row("other", "4")]
    write_labels(tmp_path / "labels", [label_row("a", "3")], heldout)
    examples = [Example("h1", "one", "4 - 1"), Example("h2", "two", "8"), Example("h3", "three", "4")]
    answers = teacher_answers(Store(str(tmp_path / "labels")), run.corpus, examples, Arithmetic())
    teacher = teacher_system(run, Arithmetic(), answers, examples)
    assert teacher.right == (True, False, False)
    assert teacher.row()["unanswered"] == 1


def test_a_teacher_without_answers_says_so(tmp_path: Path) -> None:
    examples = [Example("h1", "one", "3")]
    teacher = teacher_system(make_run(tmp_path), Arithmetic(), TeacherAnswers(), examples)
    assert teacher.right == ()
    assert "none of its answers" in teacher.note
    hinted = teacher_system(make_run(tmp_path), Arithmetic(), TeacherAnswers(hinted=True), examples)
    assert (hinted.right, hinted.note.startswith("the labels hold answers to validation rows")) == ((), True)


def test_a_teacher_whose_answers_a_filter_chose_has_no_figure(tmp_path: Path) -> None:
    found = {"h1": TeacherAnswer("3", "")}
    teacher = teacher_system(make_run(tmp_path), Arithmetic(), TeacherAnswers(found, filtered=1), EXAMPLES)
    assert (teacher.right, teacher.note.startswith("filters of the labels rejected 1")) == ((), True)
    other = teacher_system(make_run(tmp_path), Arithmetic(), TeacherAnswers(found, of_other_inputs=1), EXAMPLES)
    assert (other.right, other.note.startswith("1 of its answers")) == ((True, False, False), True)


def test_majority_is_scored_by_value() -> None:
    examples = [Example("h1", "one", "4 - 1"), Example("h2", "two", "8")]
    system = majority_system(Arithmetic(), Majority("1 + 2", 5, 9, "gold"), examples)
    assert system.right == (True, False)
    assert system.note == "`1 + 2`, the label of 5 of 9 training rows"
