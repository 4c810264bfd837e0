import json

import pytest

from pipelines.errors import BadRowError, UnparsableError, UserError
from pipelines.tasks import load_task, task_spec
from pipelines.tasks.base import Answer, Example
from pipelines.tasks.parsing.choices import SEVERAL
from tests.support.parsed import parsed

TASK = load_task(task_spec("multiple-choice"))
CHOICES = ("bus depot", "beach", "train station", "bridge", "bridge")
EXAMPLE = Example("q", "", None, CHOICES)
PUNCTUATED = Example(
    "q", "", None, ("u.s", "to defend itself.", "Dr. Smith", "sea", "sea shore", "not sure", "did not go")
)


@pytest.mark.parametrize(
    ("choices", "gold", "read"),
    [
        (list(CHOICES), "bridge", "bridge"), (list(CHOICES), "Beach ", "beach"), (list(CHOICES), "C", "train station"),
        (list(CHOICES), "(a)", "bus depot"), (json.dumps(CHOICES), "beach", "beach"), (["b", "a"], "a", "a"),
        ([1, 2.5], 2.5, "2.5"), ([1, 2], 2.0, "2"), ([1.0, 2.0], 2.0, "2.0"), (["ice cream ", "a  b"], "ice cream", "ice cream"),
    ],
)  # fmt: skip
def test_gold_label_is_a_text_or_a_letter(choices: object, gold: object, read: str) -> None:
    example = TASK.read({"id": "q", "question": "Where?", "choices": choices, "gold": gold})
    assert example.gold == read
    assert example.input.startswith("Where?\n(a) ")
    assert example.input.count("\n") == len(example.choices)


@pytest.mark.parametrize(
    ("gold", "read"), [(0, "4"), ("1", "1"), (2.0, "7"), (None, None), (3, ""), (-1, ""), ("4", ""), (0.5, "")]
)
def test_gold_may_be_the_index_of_a_choice(gold: object, read: str | None) -> None:
    task = load_task(task_spec("multiple-choice", {"gold": "index"}))
    row = {"id": "q", "question": "3 + 4?", "choices": ["4", "1", "7"], "gold": gold}
    if read == "":
        with pytest.raises(BadRowError, match="must be the index of a choice, 0 to 2"):
            task.read(row)
    else:
        assert task.read(row).gold == read


@pytest.mark.parametrize(
    "row",
    [{"gold": "airport"}, {"gold": "f"}, {"choices": "bus, beach"}, {"choices": '"bus"'}, {"choices": "[" * 50_000},
     {"choices": ["one"]}, {"choices": ["x"] * 27}, {"choices": ["a", None]}, {"choices": ["a", ""]},
     {"choices": ["x" * 60_000, "y" * 60_000]}],
    ids=lambda row: str(row)[:30],
)  # fmt: skip
def test_invalid_choices_and_gold_labels_are_bad_rows(row: dict[str, object]) -> None:
    with pytest.raises(BadRowError):
        TASK.read({"id": "q", "question": "Where?", "choices": list(CHOICES), **row})


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("A. So the answer is (c) train station.\n\nQ: What?\n(a) x\nA: So the answer is (a) x.", "train station"),
        ("(c) train station", "train station"), ("c", "train station"), ("C.", "train station"),
        ("train station", "train station"), ("A. The answer is C", "train station"),
        ("A. The answer is c) train station", "train station"), ("A. The correct answer is option C.", "train station"),
        ("A. **Answer:** (C) Train Station", "train station"), ("A. The answer is \\boxed{C}.", "train station"),
        ("A. The answer is \\(\\text{(c) train station}\\)", "train station"),
        ("A. The answer is train station.", "train station"), ("A. The answer is the train station.", "train station"),
        ("A. The answer is bridge.", "bridge"), ("A. The answer is (c).", "train station"),
        ("A. The answer is (c) a trian station.", "train station"), ("A. The answer is (b) beaches.", "beach"),
        ("A. The answer is (b), not (c).", "beach"), ("A. <answer>b</answer>", "beach"), ("b) beach", "beach"),
        ("A.\n\n**Final Answer**\n(b)", "beach"), ("A. The correct option is (b) beach.", "beach"),
        ("A. The answer is (b) beach, since a bridge is dry.", "beach"),
        ("A. The answer is B because it is wet.", "beach"), ('A. {"answer": "B"}', "beach"),
        ("A. The answer is a beach, not a bridge.", "beach"),
        ("A. The answer is beach (b), not bridge (d).", "beach"), ("A. The answer is (b), as (a) and (c) have no water.", "beach"),
        *((text, None) for text in (
            "a bus goes to the beach", "It is late, so they took (a)", "It is late, so they took (a) beach.",
            "It is late, so they took (a) bus depot or (b) beach.", "It is late, so they left. They took (a) bus depot.",
            "It is late, so they took (f) airport.", "The answer is one of these.", "The answer is not (a) bus depot.",
            "The answer is (f) airport.", "The answer is the bridge by the beach.", "The answer is (ａ).")),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_one_label_and_its_rationale_are_read(text: str, label: str | None) -> None:
    answer = parsed(TASK, text, EXAMPLE) or Answer(None, "")
    assert (answer.label, answer.note, answer.rationale in ("A.", "")) == (label, "", True)


@pytest.mark.parametrize(
    "text",
    ["The answer is either (b) beach or (d) bridge.", "The answer is (b) beach or (d) bridge.", "The answer is both (b) and (d).",
     "The answer is beach or bridge.", "The answer is (b) / (d).", "The answer is beach, bridge, or airport."],
)  # fmt: skip
def test_several_choices_are_rejected_unless_the_first_is_kept(text: str) -> None:
    with pytest.raises(UnparsableError, match="several choices are named, first 'beach'"):
        TASK.parse(text, EXAMPLE)
    with pytest.raises(UserError, match="task_options"):
        load_task(task_spec("multiple-choice", {"several": "last"}))
    keeps = load_task(task_spec("multiple-choice", {"several": "first"}))
    assert (keeps.parse(text, EXAMPLE).label, keeps.parse(text, EXAMPLE).note) == ("beach", SEVERAL)


@pytest.mark.parametrize(
    "text",
    [
        "The answer is (c) airport.", "The answer is (b) bridge.", "The answer is (b) a place with water.",
        "The answer is beach (c).",
    ],
)  # fmt: skip
def test_a_letter_with_another_text_is_unparsable(text: str) -> None:
    with pytest.raises(UnparsableError, match=r"choice \([bc]\) is"):
        TASK.parse(text, EXAMPLE)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("The answer is (a) u.s.", "u.s"), ("The answer is u.s.", "u.s"),
        ("The answer is (b) to defend itself.", "to defend itself."), ("The answer is (c) Dr. Smith.", "Dr. Smith"),
        ("The answer is Dr. Smith.", "Dr. Smith"), ("The answer is sea shore.", "sea shore"),
        ("The answer is not sure.", "not sure"), ("The answer is (f) not sure.", "not sure"),
        ("The answer is (g) did not go.", "did not go"),
        ("The answer is to go to the sea shore.", "sea shore"),
    ],
)  # fmt: skip
def test_choices_may_contain_stops_and_each_other(text: str, label: str) -> None:
    assert TASK.parse(text, PUNCTUATED) == Answer(label, "")
    for answer, choice in (("(b) $2,000.", "$2,000"), ("$2,000.", "$2,000"), ("(a) $x^{2}$.", "$x^{2}$")):
        assert TASK.parse(f"The answer is {answer}", Example("q", "", None, ("$x^{2}$", "$2,000"))).label == choice
    conclusion = "It is late, so they were at the (a) bus depot."
    assert TASK.parse(conclusion, EXAMPLE) == Answer("bus depot", conclusion), "a letter with its text"


def test_equal_texts_are_the_same_answer() -> None:
    assert TASK.same("(d)", "bridge", EXAMPLE)
    assert TASK.same("(e) bridge", "bridge", EXAMPLE)
    assert TASK.same("Bridge.", "bridge", EXAMPLE)
    assert not TASK.same("beach", "bridge", EXAMPLE)
    signs = Example("q", "", None, (".", "!", "-5", "5"))
    assert TASK.normalise("!", signs) == "!"
    assert len({TASK.key(choice) for choice in signs.choices}) == 4, "choices of punctuation stay different"
