import pytest

from pipelines.data.reader import FileRange, read_split
from pipelines.tasks import Answer, Example, TaskSpec, load_task
from pipelines.tasks.failures import checked_answer, checked_example, failure_detail

SOURCE = """
from pipelines.tasks.arithmetic import Arithmetic

class Own(Arithmetic):
    def read(self, row):
        return {"answer": 1}[row["key"]]
"""


def test_reading_names_the_error_of_a_task_file(tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "c.jsonl").write_text('{"id": "a", "key": "x"}\n{"id": "b", "key": "answer"}\n')
    task = load_task(TaskSpec("folder/own.py", {}, SOURCE))
    first, second = read_split(FileRange("train", str(tmp_path / "c.jsonl"), "jsonl"), task, {})
    assert first.problem == "the task raised KeyError: 'x' (own.py, line 6, in read)"
    assert second.problem.startswith("the task raised TypeError: read returned a int, must be an Example (")


def test_a_long_message_is_cut() -> None:
    assert failure_detail(ValueError("x" * 999)) == f"the task raised ValueError: {'x' * 297}..."
    assert failure_detail(AssertionError()) == "the task raised AssertionError"


@pytest.mark.parametrize("answer", [None, Answer(3, "r"), Answer("l", None), Answer("\ud800", "r")])  # type: ignore[arg-type]
def test_answers_must_be_texts(answer: object) -> None:
    with pytest.raises((TypeError, ValueError), match="parse returned"):
        checked_answer(answer)


@pytest.mark.parametrize("example", [Example("i", None, None), Example("i", "x", 3), Example("i", "x", None, (1,))])  # type: ignore[arg-type]
def test_examples_must_be_texts(example: Example) -> None:
    with pytest.raises(TypeError, match="read returned"):
        checked_example(example)
