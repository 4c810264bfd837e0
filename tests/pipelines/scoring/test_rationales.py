import pytest

from pipelines.scoring.rationales import WrittenRationale, quality, rationales_read, sample_of
from pipelines.scoring.reference_systems import TeacherAnswer, TeacherAnswers
from pipelines.tasks import Example
from pipelines.tasks.arithmetic import Arithmetic
from pipelines.tasks.nli import NaturalLanguageInference

APPLES = Example("a", "Anne has 4 apples and gives Peter 2 and Thomas 1 of them", "4 - 2 - 1")
NEUTRAL = Example("a", "premise: ... hypothesis: ...", "neutral")


def test_signals_worked_by_hand() -> None:
    written = [
        ("4 - 2 = 2. 2 - 1 = 1.", "4 - 2 - 1"),  # leads to its label, which is gold
        ("4 + 2 + 1 = 7", "4 + 2 + 1"),  # leads to its label, which is not
        ("Anne has 4 apples and gives Peter 2 and Thomas 1", "4 - 2 - 1"),  # repeats the input
        ("4 - 2 - 1 = 1 as anybody knows", None),  # no label to lead to
        (" \n", "1"),
    ]
    found = quality("student", [WrittenRationale(text, label, APPLES) for text, label in written], Arithmetic())
    assert found.model_dump() == {
        "of": "student", "examples": 5, "empty": 1, "leads_to_label": 2 / 4, "states_gold": 2 / 4, "repeats_input": 1 / 4,
        "words": {"p10": 7, "median": 10, "p90": 11},
    }  # fmt: skip


def test_unknown_signals_are_none() -> None:
    task, texts = NaturalLanguageInference(), ("It need not be so.", "")
    found, empty = (quality("teacher", [WrittenRationale(text, "neutral", NEUTRAL)], task) for text in texts)
    assert (found.leads_to_label, found.states_gold) == (None, 0.0)
    assert (empty.empty, empty.states_gold, empty.repeats_input, empty.words) == (1, None, None, None)
    assert quality("teacher", [], task) is None


def test_the_sample_is_chosen_by_id() -> None:
    examples = [Example(f"e{i}", "?", "1") for i in range(500)]
    more = [*examples, *(Example(f"new{i}", "?", "1") for i in range(25))]
    chosen = sample_of(examples, 50)
    assert chosen == sorted(chosen) != list(range(50))
    ids, backwards, others = ({some[i].id for i in sample_of(some, 50)} for some in (examples, examples[::-1], more))
    assert (len(ids), backwards, len(others & ids)) == (50, ids, pytest.approx(50 * 500 / 525, abs=5))
    assert sample_of(examples[:30], 50) == list(range(30))


def test_rationales_of_the_teacher_are_counted() -> None:
    examples = [APPLES, Example("b", "two", "2"), Example("c", "three", "3")]
    texts = {"a": ("1", "4 - 2 - 1 = 1"), "b": ("2", " "), "x": ("1", "so")}
    answers = TeacherAnswers({row_id: TeacherAnswer(*answer) for row_id, answer in texts.items()})
    found = rationales_read(answers, examples, Arithmetic())
    assert found.model_dump() == {"examples": 3, "without": 2, "states_gold": 1.0}
