from __future__ import annotations

import pytest

from pipelines.scoring.rationales import WrittenRationale, quality, rationales_read, sample_of
from pipelines.scoring.reference_systems import TeacherAnswer, TeacherAnswers
from pipelines.tasks import Example, load_task, task_spec

APPLES = Example("a", "Anne has 4 apples and gives Peter 2 and Thomas 1 of them", "4 - 2 - 1")


def written(rationale: str, label: str | None, example: Example = APPLES) -> WrittenRationale:
    return WrittenRationale(rationale, label, example)


def test_signals_worked_by_hand() -> None:
    found = quality(
        "student",
        [
            written("4 - 2 = 2. 2 - 1 = 1.", "4 - 2 - 1"),  # leads to its label, which is gold
            written("4 + 2 + 1 = 7", "4 + 2 + 1"),  # leads to its label, which is not
            written("Anne has 4 apples and gives Peter 2 and Thomas 1", "4 - 2 - 1"),  # says the input again
            written("4 - 2 - 1 = 1 as nobody told", None),  # no label to lead to
            written(" \n", "1"),
        ],
        load_task(task_spec("arithmetic", {})),
    )
    assert found == {
        "of": "student",
        "examples": 5,
        "empty": 1,
        "leads_to_label": 2 / 4,
        "states_gold": 2 / 4,
        "repeats_input": 1 / 4,
        "words": {"p10": 7, "median": 10, "p90": 11},
    }


def test_what_cannot_be_told_is_no_share() -> None:
    nli = load_task(task_spec("nli", {}))
    example = Example("a", "premise: ... hypothesis: ...", "neutral")
    found = quality("teacher", [written("It need not be so.", "neutral", example)], nli)
    assert found is not None
    assert (found["leads_to_label"], found["states_gold"]) == (None, 0.0)
    empty = quality("teacher", [written("", "neutral", example)], nli)
    assert empty is not None
    assert (empty["empty"], empty["states_gold"], empty["repeats_input"], empty["words"]) == (1, None, None, None)
    assert quality("teacher", [], nli) is None


def test_the_sample_is_chosen_by_id() -> None:
    examples = [Example(f"e{i}", "?", "1") for i in range(500)]
    chosen = sample_of(examples, 50)
    assert len(chosen) == 50
    assert chosen == sorted(chosen) != list(range(50))
    ids = {examples[i].id for i in chosen}
    backwards = examples[::-1]
    assert {backwards[i].id for i in sample_of(backwards, 50)} == ids
    assert sample_of(examples[:30], 50) == list(range(30))
    more = [*examples, *(Example(f"new{i}", "?", "1") for i in range(25))]
    assert len({more[i].id for i in sample_of(more, 50)} & ids) == pytest.approx(50 * 500 / 525, abs=5)


def test_what_is_read_of_the_teacher_is_counted() -> None:
    examples = [APPLES, Example("b", "two", "2"), Example("c", "three", "3")]
    answers = TeacherAnswers(
        {"a": TeacherAnswer("1", "4 - 2 - 1 = 1"), "b": TeacherAnswer("2", " "), "x": TeacherAnswer("1", "so")}
    )
    found = rationales_read(answers, examples, load_task(task_spec("arithmetic", {})))
    assert found == {"examples": 3, "without": 2, "states_gold": 1.0}
