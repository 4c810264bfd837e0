"""Thoughts of reasoning models are cut before anything is parsed."""

from collections.abc import Callable

import pytest

from pipelines.config import FiltersConfig
from pipelines.label.answers.outcomes import THOUGHT, Outcome, judge, outcome_table
from pipelines.label.answers.thoughts import Split, ThoughtCutter, opens_thought
from pipelines.label.output.parts import part_tables
from pipelines.label.teachers.base import Generation, Sample
from tests.support.outcomes import APPLES, ARITHMETIC

WRONG, RIGHT = "The answer is (4 + 1). Wait, no.", "4 - 1 = 3. The answer is (4 - 1)."
FORMATS: dict[str, Callable[[str, str], str]] = {
    "think": lambda thought, answer: f"<think>\n{thought}\n</think>\n\n{answer}",
    "no opening mark": lambda thought, answer: f"{thought}\n</think>\n\n{answer}",
    "mistral": lambda thought, answer: f"[THINK]{thought}[/THINK]{answer}",
    "reasoning": lambda thought, answer: f"<reasoning>{thought}</reasoning>\n{answer}",
    "channels": lambda thought, answer: (
        f"<|channel|>analysis<|message|>{thought}<|end|><|start|>assistant<|channel|>final<|message|>{answer}<|return|>"
    ),
    "channels without marks": lambda thought, answer: f"analysisWe think. {thought}assistantfinal{answer}",
    "two thoughts": lambda thought, answer: f"<think>{thought}</think> Hm. <think>{thought}</think>{answer}",
    "nested": lambda thought, answer: f"<think>{thought}<think>{thought}</think>{thought}</think>{answer}",
    "granite": lambda thought, answer: f"Here is my thought process: {thought} Here is my response: {answer}",
    "cohere": lambda thought, answer: (
        f"<|START_THINKING|>{thought}<|END_THINKING|><|START_RESPONSE|>{answer}<|END_RESPONSE|>"
    ),
    "openthinker": lambda thought, answer: (
        f"<|begin_of_thought|>{thought}<|end_of_thought|><|begin_of_solution|>{answer}<|end_of_solution|>"
    ),
    "kimi": lambda thought, answer: f"◁think▷{thought}◁/think▷{answer}",
}
UNENDED = ["<think>{}", "[THINK]{}", "<reasoning>{}", "<|channel|>analysis<|message|>{}", "analysisWe think. {}"]


def written(text: str, finish: str = "stop") -> Generation:
    return Generation((Sample(text, 9, finish),), 1)


def judged(text: str, finish: str = "stop") -> Outcome:
    return judge("train", APPLES, ThoughtCutter("auto").cut(written(text, finish)), ARITHMETIC, FiltersConfig())


@pytest.mark.parametrize("form", FORMATS)
def test_no_label_comes_from_a_thought(form: str) -> None:
    row = judged(FORMATS[form](WRONG, RIGHT))
    assert (row.label, row.note) == ("4 - 1", THOUGHT)
    assert str(row.rationale).removeprefix("Hm. ").strip() == "4 - 1 = 3."
    assert WRONG in str(row.thoughts)


@pytest.mark.parametrize("form", UNENDED)
@pytest.mark.parametrize(("finish", "reason"), [("length", "truncated"), ("stop", "unparsable")])
def test_a_thought_without_an_end_leaves_no_answer(form: str, finish: str, reason: str) -> None:
    row = judged(form.format(WRONG), finish)
    assert (row.reason, row.output) == (reason, form.format(WRONG))
    why = ": they have used up all 9 tokens of the answer. Raise teacher.sampling.max_tokens"
    assert row.detail == f"the thoughts do not end{why if finish == 'length' else ''}"
    hidden = judged("", finish).detail or ""
    assert hidden.endswith("may have used them up. Raise teacher.sampling.max_tokens") == (finish == "length")


def test_a_cut_text_is_a_thought_if_the_opening_mark_is_implied() -> None:
    cutter = ThoughtCutter("auto")
    assert cutter.split(WRONG, is_cut=True).answer == WRONG
    cutter.split(f"{WRONG}</think>{RIGHT}")
    assert cutter.split(WRONG, is_cut=True) == Split("", WRONG, ends=False)
    assert cutter.split(RIGHT).answer == RIGHT
    assert ThoughtCutter("think").split(WRONG, is_cut=True).ends is False
    assert ThoughtCutter("auto").split(WRONG, opened=True).ends is False
    prompts = ("<|im_start|>assistant\n<think>\n", "<think>\n\n</think>\n\n", "assistant\n", "[THINK]")
    assert [opens_thought(prompt) for prompt in prompts] == [True, False, False, True]
    generation = written(f"<think>{WRONG}</think>{RIGHT}")
    assert ThoughtCutter("none").cut(generation) is generation
    assert ThoughtCutter("mistral").cut(generation) == generation, "of another teacher"


def test_thoughts_are_a_column_only_if_kept() -> None:
    row = judged(f"<think>{WRONG}</think>{RIGHT}")
    tables = dict(part_tables(outcome_table([row])))
    assert tables["data"]["thoughts"].to_pylist() == [WRONG]
    row.thoughts = None
    assert "thoughts" not in dict(part_tables(outcome_table([row])))["data"].schema.names
