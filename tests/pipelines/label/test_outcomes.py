from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.config import FiltersConfig, TeacherConfig
from pipelines.errors import UserError
from pipelines.label.outcomes import OUTCOME, judge
from pipelines.label.prompts import render_prompt
from pipelines.label.teachers.base import Generation, PromptRefusedError, Sample
from pipelines.label.teachers.echo import EchoTeacher
from pipelines.label.teachers.replay import ReplayTeacher
from pipelines.schema import REJECT_REASONS
from pipelines.tasks import Example, load_task, task_spec

TASK = load_task(task_spec("arithmetic"))
EXAMPLE = Example("a", "Anne has 4 apples and gives Peter 1. How many has she left?", "4 - 1")


def generated(*texts: str, finish: str = "stop") -> Generation:
    return Generation(tuple(Sample(text, 5, finish) for text in texts), 100)


def outcome(split: str, generation: Generation, **filters: Any) -> dict[str, Any]:
    row = judge(split, EXAMPLE, generation, TASK, FiltersConfig(**filters))
    pa.Table.from_pylist([row], schema=OUTCOME)
    assert row["reason"] is None or row["reason"] in REJECT_REASONS
    return row


def test_an_accepted_row_has_label_rationale_and_tokens() -> None:
    row = outcome("train", generated("Anne gives 1 away. 4 - 1 = 3. The answer is (4 - 1)."))
    assert (row["label"], row["votes"], row["agreement"], row["reason"]) == ("4 - 1", 1, 1.0, None)
    assert row["rationale"] == "Anne gives 1 away. 4 - 1 = 3."
    assert (row["prompt_tokens"], row["output_tokens"], row["soft_label"], row["agrees"]) == (100, 5, None, True)


def test_several_samples_give_a_soft_label() -> None:
    row = outcome("train", generated("The answer is 3.", "The answer is (4 - 1).", "The answer is 7."))
    assert (row["votes"], row["output_tokens"]) == (2, 15)
    assert {entry["probability"] for entry in row["soft_label"]} == {2 / 3, 1 / 3}


@pytest.mark.parametrize(("finish", "reason"), [("stop", "unparsable"), ("length", "truncated")])
def test_text_without_an_answer_is_rejected_with_the_text(finish: str, reason: str) -> None:
    row = outcome("train", generated("Let me think about apples", finish=finish))
    assert (row["reason"], row["output"]) == (reason, "Let me think about apples")


def test_a_cut_text_with_an_answer_is_accepted() -> None:
    assert outcome("train", generated("The answer is 3.\n\nQ: There are", finish="length"))["reason"] is None


def test_gold_filter_holds_for_train_rows_only() -> None:
    wrong = generated("The answer is 9.")
    assert outcome("train", wrong, gold="drop-disagreeing")["reason"] == "disagrees_with_gold"
    assert outcome("heldout", wrong, gold="drop-disagreeing")["reason"] is None


def test_prompts_hold_shots_and_question_once() -> None:
    plain = render_prompt(TASK, EXAMPLE, TeacherConfig(engine="echo"))
    assert plain.text.endswith(f"Q: {EXAMPLE.input}\nA:")
    assert plain.text.count("Q: ") == len(TASK.shots) + 1
    assert plain.messages == ()
    chat = render_prompt(TASK, EXAMPLE, TeacherConfig(engine="vllm", model="m", prompt="chat", system="Be brief."))
    assert chat.messages[0]["role"] == "system"
    assert chat.messages[0]["content"].startswith("Be brief.")
    assert [m["role"] for m in chat.messages[1:]] == ["user", "assistant"] * len(TASK.shots) + ["user"]


@pytest.mark.parametrize("name", ["arithmetic", "multiple-choice", "nli", "grade-school-math"])
def test_what_echo_says_is_read_back_as_gold(name: str) -> None:
    task = load_task(task_spec(name))
    gold, choices = {"arithmetic": ("7 - 2", ()), "multiple-choice": ("bank", ("bank", "park")), "nli": ("neutral", ()),
                     "grade-school-math": ("72", ())}[name]  # fmt: skip
    example = Example("a", "text", gold, choices)
    teacher = EchoTeacher(TeacherConfig(engine="echo"), task)
    generation = asyncio.run(teacher.answer(render_prompt(task, example, TeacherConfig(engine="echo"))))
    assert task.same(task.parse(generation.samples[0].text, example).label, gold, example)


def test_replay_answers_by_id(tmp_path: Path) -> None:
    file = tmp_path / "outputs.jsonl"
    file.write_text('{"id": "a", "output": "The answer is 3.", "output_tokens": 4}\n\n{"id": "a", "output": "later"}\n')
    teacher = ReplayTeacher(str(file))
    prompt = render_prompt(TASK, EXAMPLE, TeacherConfig(engine="echo"))
    assert asyncio.run(teacher.answer(prompt)) == Generation((Sample("The answer is 3.", 4, "unknown"),), 0)
    other = render_prompt(TASK, Example("b", "x", None), TeacherConfig(engine="echo"))
    with pytest.raises(PromptRefusedError, match="no output for this id"):
        asyncio.run(teacher.answer(other))


@pytest.mark.parametrize(
    "line", ["", "nonsense", "[]", '{"id": "a"}', json.dumps({"id": "a", "output": 3}), '{"id": [], "output": "x"}']
)
def test_a_damaged_recording_is_refused(tmp_path: Path, line: str) -> None:
    file = tmp_path / "outputs.jsonl"
    file.write_text(line + "\n")
    with pytest.raises(UserError):
        ReplayTeacher(str(file))


def test_a_missing_recording_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        ReplayTeacher(str(tmp_path / "none.jsonl"))
