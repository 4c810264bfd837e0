"""What students of each method read, and how their text is read back."""

from __future__ import annotations

import pytest

from pipelines.methods import FORMATS, METHODS, prompt_of, read_answer, with_rationale, writes_rationales
from pipelines.tasks import Example
from pipelines.tasks.arithmetic import Arithmetic

TEXT = "Anne has 4 apples and gives one away."
EXAMPLE = Example("a", TEXT, None)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_reads_the_input_in_its_own_way(method: str) -> None:
    answer = FORMATS[method].answer
    assert prompt_of(method, answer, TEXT) == (f"[label] {TEXT}" if method == "step-by-step" else TEXT)
    if method == "step-by-step":
        assert prompt_of(method, "rationale", TEXT) == f"[rationale] {TEXT}"
    else:
        with pytest.raises(ValueError, match="trains no rationale"):
            prompt_of(method, "rationale", TEXT)


def test_a_rationale_follows_the_input() -> None:
    assert with_rationale(TEXT, "4 - 1 = 3.") == f"{TEXT} [rationale] 4 - 1 = 3."


def test_who_writes_rationales() -> None:
    wanted = {"step-by-step", "rationale-then-label", "token-kd"}
    assert {method for method in METHODS if writes_rationales(method)} == wanted


def test_labels_are_read_as_labels_and_texts_by_the_task() -> None:
    task = Arithmetic()
    label = read_answer("finetune", "(4 - 1)", task, EXAMPLE)
    assert label is not None
    assert (label.label, label.rationale) == ("4 - 1", "")
    text = read_answer("rationale-then-label", "Anne gives 1 away. The answer is (4 - 1).", task, EXAMPLE)
    assert text is not None
    assert (text.label, text.rationale) == ("4 - 1", "Anne gives 1 away.")
    assert read_answer("finetune", "no idea", task, EXAMPLE) is None
    assert read_answer("token-kd", "no idea", task, EXAMPLE) is None
