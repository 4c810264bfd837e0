import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import BadRowError, UnparsableError
from pipelines.tasks import load_task, task_spec
from pipelines.tasks.base import Answer, Example
from pipelines.tasks.multiple_choice import LETTER_AND_TEXT, SEVERAL
from tests.support.recorded_teachers import score_teacher

TASK = load_task(task_spec("multiple-choice"))
CHOICES = ("bus depot", "beach", "train station", "bridge", "bridge")
EXAMPLE = Example("q", "", None, CHOICES)
PUNCTUATED = Example("q", "", None, ("u.s", "to defend itself.", "Dr. Smith", "sea", "sea shore", "not sure"))


@pytest.mark.parametrize(
    ("choices", "gold", "read"),
    [
        (list(CHOICES), "bridge", "bridge"),
        (list(CHOICES), "Beach ", "beach"),
        (list(CHOICES), "C", "train station"),
        (list(CHOICES), "(a)", "bus depot"),
        (list(CHOICES), None, None),
        (json.dumps(CHOICES), "beach", "beach"),
        (["b", "a"], "a", "a"),
        ([1, 2.5], 2.5, "2.5"),
        (["ice cream ", "a  b"], "ice cream", "ice cream"),
    ],
)
def test_read(choices: Any, gold: Any, read: str | None) -> None:
    example = TASK.read({"id": "q", "question": "Where?", "choices": choices, "gold": gold})
    assert example.gold == read
    assert example.input.startswith("Where?\n(a) ")
    assert example.input.count("\n") == len(example.choices)


@pytest.mark.parametrize(
    "row",
    [
        {"gold": "airport"},
        {"gold": "f"},
        {"choices": None},
        {"choices": "bus, beach"},
        {"choices": '"bus"'},
        {"choices": "[" * 50_000},
        {"choices": ["one"]},
        {"choices": ["x"] * 27},
        {"choices": ["a", None]},
        {"choices": ["a", ""]},
        {"choices": {"a": 1}},
        {"choices": ["x" * 60_000, "y" * 60_000]},
        {"question": ""},
        {"question": 3.5j},
    ],
    ids=lambda row: str(row)[:30],
)
def test_bad_rows(row: Mapping[str, Any]) -> None:
    with pytest.raises(BadRowError):
        TASK.read({"id": "q", "question": "Where?", "choices": list(CHOICES), **row})


@pytest.mark.parametrize(
    ("text", "label", "note"),
    [
        ("A. So the answer is (c) train station.\n\nQ: What?\n(a) x\nA: So the answer is (a) x.", "train station", ""),
        ("(c) train station", "train station", ""),
        ("c", "train station", ""),
        ("C.", "train station", ""),
        ("train station", "train station", ""),
        ("A. The answer is C", "train station", ""),
        ("A. The answer is c) train station", "train station", ""),
        ("A. The correct answer is option C.", "train station", ""),
        ("A. **Answer:** (C) Train Station", "train station", ""),
        ("A. The answer is \\boxed{C}.", "train station", ""),
        ("A. The answer is \\(\\text{(c) train station}\\)", "train station", ""),
        ("A. The answer is train station.", "train station", ""),
        ("A. The answer is the train station.", "train station", ""),
        ("A. The answer is bridge.", "bridge", ""),
        ("A. The answer is (c).", "train station", ""),
        ("A. The answer is (c) airport.", "train station", LETTER_AND_TEXT),
        ("A. The answer is (b) bridge.", "beach", LETTER_AND_TEXT),
        ("A. The answer is either (b) beach or (d) bridge.", "beach", SEVERAL),
        ("A. The answer is (b) beach or (d) bridge.", "beach", SEVERAL),
    ],
)
def test_parse(text: str, label: str, note: str) -> None:
    answer = TASK.parse(text, EXAMPLE)
    assert (answer.label, answer.note) == (label, note)
    assert answer.rationale in ("A.", "")


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("The answer is (a) u.s.", "u.s"),
        ("The answer is u.s.", "u.s"),
        ("The answer is (b) to defend itself.", "to defend itself."),
        ("The answer is (c) Dr. Smith.", "Dr. Smith"),
        ("The answer is Dr. Smith.", "Dr. Smith"),
        ("The answer is sea shore.", "sea shore"),
        ("The answer is not sure.", "not sure"),
        ("The answer is (f) not sure.", "not sure"),
        ("The answer is to go to the sea shore.", "sea shore"),
    ],
)
def test_choices_with_stops_and_inside_each_other(text: str, label: str) -> None:
    assert TASK.parse(text, PUNCTUATED) == Answer(label, "")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I do not know.",
        "a bus goes to the beach",
        "It is late, so they took (a)",
        "It is late, so they took (a).",
        "It is late, so they took (a) beach.",
        "It is late, so they took (a) bus depot or (b) beach.",
        "It is late, so they left. They took (a) bus depot.",
        "It is late, so they took (f) airport.",
        "The answer is one of these.",
        "The answer is not (a) bus depot.",
        "The answer is (f) airport.",
        "The answer is the bridge by the beach.",
        "The answer is (ａ).",
        "x" * 1_000_000,
        "The answer is " + "(" * 1_000_000,
    ],
    ids=lambda text: text[:40],
)
def test_unparsable(text: str) -> None:
    with pytest.raises(UnparsableError) as error:
        TASK.parse(text, EXAMPLE)
    assert len(str(error.value)) < 200


def test_a_conclusion_with_letter_and_text_is_an_answer() -> None:
    text = "It is late, so they were at the (a) bus depot."
    assert TASK.parse(text, EXAMPLE) == Answer("bus depot", text)


def test_choices_of_signs_alone_stay_apart() -> None:
    signs = Example("q", "", None, (".", "!", "-5", "5"))
    assert TASK.normalise("!", signs) == "!"
    assert len({TASK.key(choice) for choice in signs.choices}) == 4


def test_same_text_is_the_same_answer() -> None:
    assert TASK.same("(d)", "bridge", EXAMPLE)
    assert TASK.same("(e) bridge", "bridge", EXAMPLE)
    assert TASK.same("Bridge.", "bridge", EXAMPLE)
    assert not TASK.same("beach", "bridge", EXAMPLE)
    assert not TASK.same("airport", "bridge", EXAMPLE)


def test_what_it_renders_it_reads() -> None:
    for choice in (*CHOICES, *PUNCTUATED.choices):
        example = EXAMPLE if choice in CHOICES else PUNCTUATED
        assert TASK.parse(TASK.render(Answer(choice, "Because.")), example) == Answer(choice, "Because.")


def test_shots_are_read_and_in_the_format_of_the_input() -> None:
    for shot in TASK.shots:
        question, *lines = shot.question.split("\n")
        example = TASK.read({"id": "s", "question": question, "choices": [line[4:] for line in lines]})
        assert example.input == shot.question
        answer = TASK.parse(shot.answer, example)
        assert not answer.note
        assert answer.label in shot.answer


@pytest.mark.parametrize(("teacher", "share"), [("palm-540b", 0.768), ("qwen2.5-coder-1.5b", 0.563)])
def test_real_teachers(test_data: Path, teacher: str, share: float) -> None:
    score = score_teacher(TASK, test_data / "cqa", teacher)
    assert score.examples == 9741
    assert score.right >= share * score.examples
    assert score.notes[LETTER_AND_TEXT] < 0.005 * score.examples
