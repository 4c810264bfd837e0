from collections.abc import Mapping

import pytest

from pipelines.errors import UnparsableError, UserError
from pipelines.tasks import load_task, task_spec
from pipelines.tasks.base import Answer, Example, Task
from tests.support.parsed import parsed

OPTIONS: dict[str, object] = {
    "labels": ["spam", "not spam", "no reply"],
    "instruction": "What kind of message is this?",
    "examples": [{"input": "Win now!", "rationale": "It promises a prize.", "label": "spam"}],
    "input_field": "message",
}
EXAMPLE = Example("m", "Hello.", None)


def _task(options: Mapping[str, object] = OPTIONS) -> Task:
    return load_task(task_spec("classification", dict(options)))


def test_options_define_the_prompt_and_the_input_field() -> None:
    task = _task()
    assert task.labels == ("spam", "not spam", "no reply")
    assert task.instruction == "What kind of message is this? Labels: spam, not spam, no reply."
    assert [(s.question, s.answer) for s in task.shots] == [("Win now!", "It promises a prize. The answer is spam.")]
    assert task.required == ("message",)
    assert load_task(task_spec("classification")).required == ("input",)
    row = {"id": "m", "message": " Hello. ", "input": "other"}
    assert task.read({**row, "gold": "Not Spam"}) == Example("m", "Hello.", "not spam")


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("A. The answer is spam.", "spam"), ("A. The answer is Not Spam.", "not spam"),
        ("A. The answer is (no reply).", "no reply"), ("A. The answer is that it is not spam.", "not spam"), ("spam", "spam"),
        ("This is spam.", None), ("The answer is ham.", None), ("The answer is spam or no reply.", None), ("The answer is spammer.", None),
        ("The answer is not a clear no reply.", None), ("The answer isn't spam.", None), ("The answer is not no reply but spam.", "spam"),
        ("The answer is anything but spam.", None),
    ],
)  # fmt: skip
def test_one_label_is_read(text: str, label: str | None) -> None:
    assert getattr(parsed(_task(), text, EXAMPLE), "label", None) == label


@pytest.mark.parametrize(
    ("labels", "gold", "read"),
    [
        (["True", "False"], True, "True"), (["1", "2"], 1.0, "1"), (["-1", "1"], "-1.0", "-1"), (["1.0", "2.0"], 1.0, "1.0"),
        (None, 2.0, "2"), (None, "2.0", "2.0"),
    ],
)  # fmt: skip
def test_gold_labels_are_read_as_files_store_them(labels: list[str] | None, gold: object, read: str) -> None:
    """Truth values of JSON and Parquet, and integers that stand beside nulls in a column of floats."""
    assert _task({"labels": labels}).read({"id": "m", "input": "x", "gold": gold}).gold == read


def test_labels_are_free_without_a_label_set() -> None:
    task = _task({"instruction": "Name the capital."})
    assert task.labels is None
    assert task.instruction == "Name the capital."
    assert task.parse("France's capital. The answer is Paris.", EXAMPLE) == Answer("Paris", "France's capital.")
    for label in ("St. Louis", "U.S. Steel", "J. K. Rowling", "3.5"):
        assert task.parse(task.render(Answer(label, "R.")), EXAMPLE) == Answer(label, "R.")
    assert task.parse('The answer is "Paris." It is in France.', EXAMPLE).label == "Paris"
    assert task.parse("The answer is vitamin C. It is in fruit.", EXAMPLE).label == "vitamin C"
    assert task.same("paris", "Paris", EXAMPLE)
    assert not task.same("London", "Paris", EXAMPLE)
    assert task.read({"id": "m", "input": "France", "gold": "Paris."}).gold == "Paris"
    with pytest.raises(UnparsableError):
        task.parse("Paris, I think.", EXAMPLE)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"label": ["a", "b"]}, "task_options.label"), ({"labels": "a, b"}, "task_options.labels"),
        ({"labels": ["a"]}, "task_options.labels"), ({"labels": ["a", "A"]}, "task_options.labels"),
        ({"labels": ["a", ""]}, "task_options.labels"), ({"labels": [True, False]}, "task_options.labels[0]"),
        ({"instruction": ["a"]}, "task_options.instruction"), ({"input_field": "gold"}, "task_options.input_field"),
        ({"examples": "a"}, "task_options.examples"), ({"examples": ["a"]}, "task_options.examples[0]"),
        ({"examples": [{"input": "a"}]}, "task_options.examples[0]"),
        ({"examples": [{"input": "a", "label": "b", "why": "c"}]}, "task_options.examples[0]"),
        ({"labels": ["a", "b"], "examples": [{"input": "x", "label": "c"}]}, "task_options.examples[0].label"),
    ],
)  # fmt: skip
def test_invalid_options_are_named(options: dict[str, object], named: str) -> None:
    with pytest.raises(UserError) as error:
        _task(options)
    assert str(error.value).startswith(named)
