from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.config import FiltersConfig, TeacherConfig
from pipelines.data.heldout import is_validation
from pipelines.data.schema import REJECT_REASONS, TOKEN_LOGPROBS, TOKEN_LOGPROBS_PARQUET
from pipelines.errors import UserError
from pipelines.label.answers.outcomes import (
    OUTCOME,
    RATIONALISED,
    judge,
    outcome_table,
    refused,
    second_attempt,
    token_logprobs_table,
    wants_rationalising,
)
from pipelines.label.answers.prompts import PromptMaker
from pipelines.label.teachers.base import Generation, PromptRefusedError, Sample, TokenLogprobs
from pipelines.label.teachers.echo import EchoTeacher
from pipelines.label.teachers.replay import ReplayTeacher
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


@pytest.mark.parametrize("name", ["arithmetic", "multiple-choice", "nli", "grade-school-math"])
def test_what_echo_says_is_read_back_as_gold(name: str) -> None:
    task = load_task(task_spec(name))
    gold, choices = {"arithmetic": ("7 - 2", ()), "multiple-choice": ("bank", ("bank", "park")), "nli": ("neutral", ()),
                     "grade-school-math": ("72", ())}[name]  # fmt: skip
    example = Example("a", "text", gold, choices)
    teacher = EchoTeacher(TeacherConfig(engine="echo"), task)
    generation = asyncio.run(teacher.answer(PromptMaker(task, TeacherConfig(engine="echo")).render(example)))
    assert task.same(task.parse(generation.samples[0].text, example).label, gold, example)


def test_replay_answers_by_id(tmp_path: Path) -> None:
    file = tmp_path / "outputs.jsonl"
    file.write_text('{"id": "a", "output": "The answer is 3.", "output_tokens": 4}\n\n{"id": "a", "output": "later"}\n')
    teacher = ReplayTeacher(str(file))
    prompts = PromptMaker(TASK, TeacherConfig(engine="echo"))
    prompt = prompts.render(EXAMPLE)
    assert asyncio.run(teacher.answer(prompt)) == Generation((Sample("The answer is 3.", 4, "unknown"),), 0)
    other = prompts.render(Example("b", "x", None))
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


WRONG = "Anne has 4 and 1. 4 + 1 = 5. The answer is (4 + 1)."
RIGHT = "Anne gives 1 away. 4 - 1 = 3. The answer is (4 - 1)."


def attempts(first: Generation, second: Generation, example: Example = EXAMPLE, **filters: Any) -> dict[str, Any]:
    config = FiltersConfig(gold="rationalise", **filters)
    row = judge("train", example, first, TASK, config)
    assert wants_rationalising(row, config)
    row = second_attempt("train", example, row, second, TASK, config)
    pa.Table.from_pylist([row], schema=OUTCOME)
    assert row["reason"] is None or row["reason"] in REJECT_REASONS
    return row


@pytest.mark.parametrize(
    ("texts", "finish", "wanted"),
    [
        ([WRONG], "stop", True),
        (["I do not know."], "stop", True),
        (["I do not"], "length", True),
        ([RIGHT, WRONG], "stop", True),  # a tie
        ([RIGHT], "stop", False),
        ([WRONG, WRONG, RIGHT], "stop", True),
        ([RIGHT, "I do not know."], "stop", False),  # too little agreement, but with gold
    ],
)
def test_what_is_asked_again(texts: list[str], finish: str, wanted: bool) -> None:
    filters = FiltersConfig(gold="rationalise", min_agreement=0.7)
    row = judge("train", EXAMPLE, generated(*texts, finish=finish), TASK, filters)
    assert wants_rationalising(row, filters) == wanted
    assert not wants_rationalising(row, FiltersConfig(gold="drop-disagreeing", min_agreement=0.7))
    heldout = judge("heldout", EXAMPLE, generated(*texts, finish=finish), TASK, filters)
    assert not wants_rationalising(heldout, filters)
    unlabelled = judge("train", Example("a", "input", None), generated(*texts, finish=finish), TASK, filters)
    assert not wants_rationalising(unlabelled, filters)


def test_a_row_of_the_validation_split_is_never_asked_again() -> None:
    """Its answer is scored as the teacher's where there is no test set."""
    filters = FiltersConfig(gold="rationalise")
    examples = [Example(f"r{i}", EXAMPLE.input, EXAMPLE.gold) for i in range(40)]
    rows = [judge("train", example, generated(WRONG), TASK, filters) for example in examples]
    asked = [row["id"] for row in rows if wants_rationalising(row, filters, 0.5)]
    assert asked == [example.id for example in examples if not is_validation(example.id, 0.5)]
    assert 0 < len(asked) < 40


def test_a_row_that_no_teacher_could_be_asked_is_not_asked_again() -> None:
    row = refused("train", EXAMPLE, PromptRefusedError("too_long", "9 tokens"))
    assert not wants_rationalising(row, FiltersConfig(gold="rationalise"))


@pytest.mark.parametrize("first", [WRONG, "I do not know."])
def test_a_second_answer_that_means_gold_is_accepted_with_the_gold_label(first: str) -> None:
    row = attempts(generated(first), generated("She keeps 4 - 1 = 3. The answer is 3."))
    assert (row["reason"], row["output"], row["note"]) == (None, None, RATIONALISED)
    assert (row["label"], row["rationale"]) == ("4 - 1", "She keeps 4 - 1 = 3.")
    assert (row["votes"], row["agreement"], row["soft_label"]) == (1, 1.0, None)
    assert (row["prompt_tokens"], row["output_tokens"]) == (200, 10)
    same = judge("train", EXAMPLE, generated("She keeps 4 - 1 = 3. The answer is (4 - 1)."), TASK, FiltersConfig())
    assert row["content"] == same["content"] is not None


def test_the_hint_does_not_flatter_the_teacher() -> None:
    assert attempts(generated(WRONG), generated(RIGHT))["agrees"] is False
    assert attempts(generated("I do not know."), generated(RIGHT))["agrees"] is None


@pytest.mark.parametrize("second", [WRONG, "I do not know."])
@pytest.mark.parametrize(
    ("first", "reason"),
    [((WRONG,), "disagrees_with_gold"), (("No idea.",), "unparsable"), ((RIGHT, WRONG), "tie")],
)
def test_a_second_answer_that_does_not_mean_gold_leaves_the_first_reject(
    first: tuple[str, ...], reason: str, second: str
) -> None:
    row = attempts(generated(*first), generated(second))
    assert row["reason"] == reason
    assert all(text in row["output"] for text in (*first, second))
    assert row["note"] != RATIONALISED
    assert (row["prompt_tokens"], row["output_tokens"]) == (200, 5 * len(first) + 5)


@pytest.mark.parametrize(
    ("second", "filters", "reason"),
    [
        ("The answer is 3.", {}, None),
        ("The answer is 3.", {"drop_giveaways": True}, "gives_label_away"),
        ("As the hint says, 4 - 1 = 3. The answer is 3.", {}, None),
        ("As the hint says, 4 - 1 = 3. The answer is 3.", {"drop_giveaways": True}, "gives_label_away"),
        ("Given that the answer is 3, 4 - 1 = 3.", {"drop_giveaways": True}, "gives_label_away"),
        (RIGHT, {"drop_giveaways": True}, None),
        (RIGHT, {"min_rationale_words": 20}, "rationale_length"),
    ],
)
def test_filters_hold_for_the_second_answer(second: str, filters: dict[str, Any], reason: str | None) -> None:
    row = attempts(generated(WRONG), generated(second), **filters)
    assert row["reason"] == reason
    if reason:
        assert WRONG in row["output"]
        assert second in row["output"]


def test_a_second_answer_needs_agreement_too() -> None:
    row = attempts(generated(WRONG), generated(RIGHT, WRONG, RIGHT), min_agreement=0.9)
    assert row["reason"] == "low_agreement"
    assert attempts(generated(WRONG), generated(RIGHT, WRONG, RIGHT), min_agreement=0.6)["reason"] is None


NLI = load_task(task_spec("nli"))
PAIR = Example("p", "premise: ... hypothesis: ...", None)


def said(label: str, *probabilities: tuple[str, float], logprobs: TokenLogprobs | None = None) -> Sample:
    return Sample(f"It is so. The answer is {label}.", 5, "stop", logprobs, probabilities or None)


def test_probabilities_of_labels_make_the_soft_label_even_of_one_sample() -> None:
    one = Generation((said("neutral", ("neutral", 0.75), ("entailment", 0.25), ("contradiction", 0.0)),), 100)
    row = judge("train", PAIR, one, NLI, FiltersConfig())
    assert {e["label"]: e["probability"] for e in row["soft_label"]} == {
        "neutral": 0.75,
        "entailment": 0.25,
        "contradiction": 0.0,
    }
    both = Generation((*one.samples, *one.samples, said("maybe")), 100)
    row = judge("train", PAIR, both, NLI, FiltersConfig())
    assert row["votes"] == 3
    assert sum(e["probability"] for e in row["soft_label"]) == pytest.approx(1.0)
    assert row["soft_label"][0] == {"label": "neutral", "probability": pytest.approx(2.5 / 3)}


def test_token_logprobs_are_those_of_the_kept_sample_of_accepted_train_rows() -> None:
    def logprobs(first: int) -> TokenLogprobs:
        ids = np.arange(first, first + 6, dtype=np.int32).reshape(3, 2)
        return TokenLogprobs(ids[:, 0], ids, np.array([[-0.5, -np.inf]] * 3, dtype=np.float16))

    longer = said("neutral", logprobs=logprobs(0))
    shorter = Sample("So. The answer is neutral.", 5, "stop", logprobs(10))
    generation = Generation((longer, shorter), 100)
    gold = Example("q", "x", "entailment")
    rows = [
        judge("train", PAIR, generation, NLI, FiltersConfig()),
        judge("heldout", PAIR, generation, NLI, FiltersConfig()),
        judge("train", gold, generation, NLI, FiltersConfig(gold="drop-disagreeing")),
        judge("train", PAIR, generated("no idea"), NLI, FiltersConfig()),
        judge("train", PAIR, Generation((said("neutral"),), 9), NLI, FiltersConfig()),
    ]
    table = token_logprobs_table(outcome_table(rows))
    assert table.schema.equals(TOKEN_LOGPROBS)
    assert table.to_pylist() == [
        {
            "id": "p",
            "token_ids": [10, 12, 14],
            "top_ids": [[10, 11], [12, 13], [14, 15]],
            "top_logprobs": [[-0.5, -np.inf]] * 3,
        }
    ]
    assert len(token_logprobs_table(outcome_table(rows[3:]))) == 0
    file = io.BytesIO()
    pq.write_table(table, file, **TOKEN_LOGPROBS_PARQUET)
    assert pq.read_table(file).equals(table)
    encodings = [pq.read_metadata(file).row_group(0).column(i).encodings for i in range(4)]
    assert "RLE_DICTIONARY" in encodings[2]
    assert "BYTE_STREAM_SPLIT" in encodings[3]
