from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.config import RunConfig
from pipelines.data.heldout import Heldout
from pipelines.errors import UserError
from pipelines.scoring import systems
from pipelines.scoring.heldout_part import heldout_part
from pipelines.scoring.model import MatchCounts, Overlap
from pipelines.scoring.predict import Prediction, Predictions
from pipelines.scoring.reference_systems import Majority, TeacherAnswer, TeacherAnswers
from pipelines.scoring.system import System
from pipelines.scoring.systems import label_request, rationale_request, student_inputs, student_rationales
from pipelines.students.decoding import Sampling
from pipelines.tasks import Example
from pipelines.tasks.arithmetic import Arithmetic
from pipelines.tasks.multiple_choice import MultipleChoice
from tests.support.artifacts import make_run

EXAMPLES = [Example("h1", "one", "3"), Example("h2", "two", "8"), Example("h3", "three", "4")]
INPUTS = ["one", "two", "three"]


def test_only_a_student_that_reads_rationales_gets_them(tmp_path: Path) -> None:
    answers = TeacherAnswers({"h1": TeacherAnswer("3", "4 - 1 = 3", 9, 5)})
    assert student_inputs(make_run(tmp_path), answers, EXAMPLES[:2]) == ["one", "two"]
    reads_them = make_run(tmp_path, student={"model": "none", "method": "rationale-as-input"})
    assert student_inputs(reads_them, answers, EXAMPLES[:2]) == ["one [rationale] 4 - 1 = 3", "two [rationale] "]
    with pytest.raises(UserError, match=r"have none for the 2 held-out examples; .*with the gold label as a hint"):
        student_inputs(reads_them, TeacherAnswers(hinted=True), EXAMPLES[:2])


NOWHERE: Any = SimpleNamespace(schedules=False)
"""A source that is never loaded."""


def answered(text: str, confidence: float = 0.9, too_long: bool = False) -> Prediction:
    return Prediction(text, confidence, prompt_tokens=10, output_tokens=3, seconds=0.25, too_long=too_long)


def scored(run: RunConfig, answers: Sequence[tuple[Prediction, ...]]) -> System:
    return systems.student_system(Predictions(list(answers), 2.0), run, Arithmetic(), EXAMPLES, "student")


def test_several_answers_are_one_by_majority_vote(tmp_path: Path) -> None:
    answers = [tuple(map(answered, texts)) for texts in (("4", "4 - 1", "?", "3"), ("?", "what", "", "!"))]
    too_long = (answered("", 0.0, too_long=True),) * 4
    found = scored(make_run(tmp_path, evaluation={"samples": {"n": 4}}), [*answers, too_long])
    assert (found.labels, found.texts) == (("4 - 1", None, None), ("4 - 1", "?", ""))
    assert (found.right, found.confidences) == ((True, False, False), (0.5, 0.0, 0.0))
    assert (found.too_long, found.prompt_tokens, found.output_tokens) == (1, 120, 36)
    assert (found.seconds, found.answering_s) == (2.0, 3.0)


def test_a_text_of_both_parts_holds_label_and_rationale(tmp_path: Path) -> None:
    texts = ["4 - 1 = 3. The answer is (4 - 1).", "no end of talk", "The answer is 4."]
    run = make_run(tmp_path, student={"model": "none", "method": "rationale-then-label"})
    found = scored(run, [(answered(text),) for text in texts])
    assert (found.labels, found.confidences) == (("4 - 1", None, "4"), (0.9, 0.9, 0.9))
    assert found.rationales == ("4 - 1 = 3.", "no end of talk", "")
    assert rationale_request("r", NOWHERE, run, EXAMPLES, INPUTS) is None
    written = student_rationales(None, EXAMPLES, found)
    assert [(one.rationale, one.label) for one in written] == list(zip(found.rationales, found.labels, strict=True))


@pytest.mark.parametrize(
    ("task", "choices", "samples", "label_sets", "draws"),
    [
        (MultipleChoice(), ("sea", "lake"), 1, [("sea", "lake")], (None,)),
        (Arithmetic(), (), 1, [()], (None,)),
        (MultipleChoice(), ("sea", "lake"), 2, None, (Sampling(0.7, 0, 0), Sampling(0.7, 0, 1))),
    ],
)
def test_greedy_answers_are_limited_to_closed_label_sets(
    tmp_path: Path, task: Any, choices: tuple[str, ...], samples: int, label_sets: Any, draws: Any
) -> None:
    run = make_run(tmp_path, evaluation={"samples": {"n": samples}})
    request = label_request("s", NOWHERE, run, task, [Example("h1", "one", "sea", choices)], ["one"])
    assert (request.label_sets, request.query.draws, request.query.part) == (label_sets, draws, None)


def test_separate_rationales_are_asked_in_a_second_request(tmp_path: Path) -> None:
    request = rationale_request("r", NOWHERE, make_run(tmp_path), EXAMPLES, INPUTS)
    assert (list(request.inputs), request.query.part, request.query.draws) == (INPUTS, "rationale", (None,))
    answers = [(answered(f"because {text}", too_long=text == "two"),) for text in INPUTS]
    student = System("student", labels=("3", None, "4"), right=(True, False, True))
    written = student_rationales(Predictions(answers, 1.0), EXAMPLES, student)
    found = [(one.rationale, one.label, one.example.id) for one in written]
    assert found == [("because one", "3", "h1"), ("because three", "4", "h3")]
    finetuned = make_run(tmp_path, student={"model": "none", "method": "finetune"})
    assert rationale_request("r", NOWHERE, finetuned, EXAMPLES, INPUTS) is None
    assert student_rationales(None, EXAMPLES, student) == []
    teacher = TeacherAnswers({"h2": TeacherAnswer("8", "4 * 2 = 8", 9, 5)})
    assert [one.rationale for one in systems.teacher_rationales(teacher, EXAMPLES)] == ["4 * 2 = 8"]


def test_rows_that_are_not_scored_are_counted_and_listed(tmp_path: Path) -> None:
    bad, again = tuple((f"bad{i}", "no label") for i in range(130)), tuple(f"again{i}" for i in range(120))
    heldout = Heldout((*EXAMPLES, Example("open", "four", None)), bad, again)
    overlap = Overlap(count=0, ids=[], by=MatchCounts(id=0, input=0, near=0))
    found = heldout_part(make_run(tmp_path), heldout, EXAMPLES, overlap, None)
    assert (found.split, found.scored, found.without_gold.ids) == ("test", 3, ["open"])
    assert (found.duplicates.count, found.duplicates.ids) == (120, [f"again{i}" for i in range(100)])
    assert (found.unreadable.count, found.unreadable.ids) == (130, [f"bad{i}" for i in range(100)])
    assert found.unreadable.problems[99].model_dump() == {"id": "bad99", "problem": "no label"}


@pytest.mark.parametrize(
    ("answers", "right", "note"),
    [
        (TeacherAnswers(), (), "the labels have none of its answers"),
        (TeacherAnswers(hinted=True), (), "the labels have answers to validation rows that were given with"),
        (TeacherAnswers({"h1": TeacherAnswer("3", "")}, filtered=1), (), "filters of the labels rejected 1"),
        (TeacherAnswers({"h1": TeacherAnswer("3", "")}, of_other_inputs=1), (True, False, False), "1 of its answers"),
        (TeacherAnswers({"h1": TeacherAnswer("4 - 1", ""), "h2": TeacherAnswer("9", "")}), (True, False, False), ""),
    ],
)
def test_the_teacher_has_a_score_or_a_reason(tmp_path: Path, answers: TeacherAnswers, right: Any, note: str) -> None:
    teacher = systems.teacher_system(make_run(tmp_path), Arithmetic(), answers, EXAMPLES)
    assert (teacher.right, teacher.note[: len(note)]) == (right, note)
    assert teacher.scores().unanswered == (3 - len(answers.by_id) if right else None)


def test_the_majority_label_is_scored_by_value() -> None:
    examples = [Example("h1", "one", "4 - 1"), Example("h2", "two", "8")]
    system = systems.majority_system(Arithmetic(), Majority("1 + 2", 5, 9, "gold"), examples)
    assert (system.right, system.note) == ((True, False), "`1 + 2`, the label of 5 of 9 training rows")
    assert systems.majority_system(Arithmetic(), None, examples).note == "there are no training rows"
