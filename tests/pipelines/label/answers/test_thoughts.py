"""Thoughts of reasoning models are cut before anything is parsed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.config import FiltersConfig
from pipelines.label.answers.outcomes import THOUGHT, judge, outcome_table
from pipelines.label.answers.thoughts import TAGS, Split, ThoughtCutter, opens_thought
from pipelines.label.output.parts import part_tables
from pipelines.label.teachers.base import Generation, Sample
from pipelines.tasks import load_task, task_spec
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
    "kimi": lambda thought, answer: f"◁think▷{thought}◁/think▷{answer}",
}
UNENDED = ["<think>{}", "[THINK]{}", "<reasoning>{}", "<|channel|>analysis<|message|>{}", "analysisWe think. {}"]


@pytest.mark.parametrize("form", FORMATS)
def test_no_label_comes_from_a_thought(form: str) -> None:
    generation = ThoughtCutter("auto").cut(Generation((Sample(FORMATS[form](WRONG, RIGHT), 9, "stop"),), 1))
    row = judge("train", APPLES, generation, ARITHMETIC, FiltersConfig())
    assert (row.label, row.note) == ("4 - 1", THOUGHT)
    assert str(row.rationale).removeprefix("Hm. ").strip() == "4 - 1 = 3."
    assert WRONG in str(row.thoughts)


@pytest.mark.parametrize("form", UNENDED)
@pytest.mark.parametrize(("finish", "reason"), [("length", "truncated"), ("stop", "unparsable")])
def test_a_thought_without_an_end_leaves_no_answer(form: str, finish: str, reason: str) -> None:
    text = form.format(WRONG)
    generation = ThoughtCutter("auto").cut(Generation((Sample(text, 9, finish),), 1))
    row = judge("train", APPLES, generation, ARITHMETIC, FiltersConfig())
    assert (row.reason, row.detail, row.output) == (reason, "the thoughts do not end", text)


def test_a_cut_text_is_a_thought_if_the_opening_mark_is_implied() -> None:
    cutter = ThoughtCutter("auto")
    assert cutter.split(WRONG, is_cut=True).answer == WRONG
    cutter.split(f"{WRONG}</think>{RIGHT}")
    assert cutter.split(WRONG, is_cut=True) == Split("", WRONG, ends=False)
    assert cutter.split(RIGHT).answer == RIGHT
    assert ThoughtCutter("think").split(WRONG, is_cut=True).ends is False
    assert ThoughtCutter("auto").split(WRONG, opened=True).ends is False


def test_reasoning_none_cuts_nothing() -> None:
    generation = Generation((Sample(f"<think>{WRONG}</think>{RIGHT}", 9, "stop"),), 1)
    assert ThoughtCutter("none").cut(generation) is generation
    assert ThoughtCutter("mistral").cut(generation) == generation


@pytest.mark.parametrize(
    ("prompt", "opens"),
    [
        ("<|im_start|>assistant\n<think>\n", True),
        ("<think>\n\n</think>\n\n", False),
        ("assistant\n", False),
        ("[THINK]", True),
    ],
)
def test_a_prompt_may_open_a_thought(prompt: str, opens: bool) -> None:
    assert opens_thought(prompt) is opens


def test_thoughts_are_a_column_only_if_kept() -> None:
    generation = ThoughtCutter("auto").cut(Generation((Sample(f"<think>{WRONG}</think>{RIGHT}", 9, "stop"),), 1))
    row = judge("train", APPLES, generation, ARITHMETIC, FiltersConfig())
    tables = dict(part_tables(outcome_table([row])))
    assert tables["data"]["thoughts"].to_pylist() == [WRONG]
    row.thoughts = None
    assert "thoughts" not in dict(part_tables(outcome_table([row])))["data"].schema.names


@pytest.mark.parametrize(
    ("task", "folder"), [("arithmetic", "svamp"), ("multiple-choice", "cqa"), ("grade-school-math", "gsm8k")]
)
def test_recorded_answers_keep_their_labels_behind_thoughts(test_data: Path, task: str, folder: str) -> None:
    """1,000 texts: each answer follows, in five formats, the recorded answer to another question as its thought."""
    reader = load_task(task_spec(task))
    rows = [json.loads(line) for line in (test_data / folder / "train.jsonl").read_text().splitlines()[:400]]
    recorded = (
        json.loads(line) for line in (test_data / folder / "train.qwen2.5-coder-1.5b.jsonl").open(encoding="utf-8")
    )
    outputs = {row["id"]: row["output"] for row in recorded}
    examples = [reader.read({**row, "gold": row[reader.gold_field]}) for row in rows]
    cutter, kept = ThoughtCutter("auto"), 0
    for example, other in itertools.pairwise(examples):
        wanted = judge(
            "train", example, Generation((Sample(outputs[example.id], 9, "stop"),), 1), reader, FiltersConfig()
        )
        for form in list(FORMATS)[:5]:
            text = FORMATS[form](outputs[other.id], outputs[example.id])
            found = judge(
                "train", example, cutter.cut(Generation((Sample(text, 9, "stop"),), 1)), reader, FiltersConfig()
            )
            assert (found.label, found.reason) == (wanted.label, wanted.reason), (form, text)
            kept += found.label is not None
    assert kept > 1000


def test_marks_differ() -> None:
    assert len({mark for tags in TAGS.values() for mark in tags}) == 2 * len(TAGS)
