import dataclasses
from typing import Any

import numpy as np
import pytest

from pipelines.config import FiltersConfig
from pipelines.data.heldout import is_validation
from pipelines.data.reader import DataSplit
from pipelines.data.schema import RATIONALE, TOKEN_LOGPROBS
from pipelines.label.answers import outcomes
from pipelines.label.answers.outcomes import OUTCOME, RATIONALISED, judge, outcome_table, wants_rationalising
from pipelines.label.teachers.base import Generation, PromptRefusedError, Sample, TokenLogprobs
from pipelines.tasks import Example, load_task, task_spec
from tests.support.outcomes import APPLES, ARITHMETIC, attempts, generated, outcome, said

WRONG = "Anne has 4 and 1. 4 + 1 = 5. The answer is (4 + 1)."
RIGHT = "Anne gives 1 away. 4 - 1 = 3. The answer is (4 - 1)."
RATIONALISE = FiltersConfig(gold="rationalise")
NLI = load_task(task_spec("nli"))
PAIR = Example("p", "premise: ... hypothesis: ...", None)


def test_an_outcome_has_the_columns_of_its_table() -> None:
    assert [field.name for field in dataclasses.fields(outcomes.Outcome)] == OUTCOME.names
    assert outcome_table([]).schema.equals(OUTCOME)


@pytest.mark.parametrize(
    ("split", "text", "finish", "filters", "reason"),
    [
        ("train", RIGHT, "stop", {}, None),
        ("train", "Let me think about apples", "stop", {}, "unparsable"),
        ("train", "Let me think about apples", "length", {}, "truncated"),
        *[
            ("train", text, "length", {}, reason)
            for text, reason in (
                ("The answer is 3.\n\nQ: There are", None), ("The answer is (4 - 1).\nQ: And", None),
                ("4 - 1 = 3. The answer is (4 - 1). Then", None), ("4 - 1 = 3. The answer is 12", "truncated"),
                ("4 - 1 = 3. The answer is 12.", "truncated"), ("4 - 1 = 3. So she has", "truncated"),
                ("So he has 4 - 1 = 3 pears.\nThen", "truncated"),
            )
        ],
        ("train", "The answer is 9.", "stop", {"gold": "drop-disagreeing"}, "disagrees_with_gold"),
        ("heldout", "The answer is 9.", "stop", {"gold": "drop-disagreeing"}, None),  # filters are for train rows
    ],
)  # fmt: skip
def test_one_answer_is_accepted_or_rejected_with_its_text(
    split: DataSplit, text: str, finish: str, filters: dict[str, Any], reason: str | None
) -> None:
    row = outcome(split, generated(text, finish=finish), **filters)
    assert (row.reason, row.output) == (reason, text if reason else None)
    assert (row.prompt_tokens, row.output_tokens, row.soft_label) == (100, 5, None)
    if text == RIGHT:
        assert (row.label, row.rationale) == ("4 - 1", "Anne gives 1 away. 4 - 1 = 3.")
        assert (row.votes, row.agreement, row.agrees) == (1, 1.0, True)


def test_several_samples_give_a_soft_label() -> None:
    row = outcome("train", generated("The answer is 3.", "The answer is (4 - 1).", "The answer is 7."))
    assert (row.votes, row.output_tokens) == (2, 15)
    [soft_label] = outcome_table([row])["soft_label"].to_pylist()
    assert {p["label"]: p["probability"] for p in soft_label} == {"3": np.float32(2 / 3), "7": np.float32(1 / 3)}


def test_all_agreeing_rationales_that_the_filters_keep() -> None:
    long, hint = f"Anne starts with 4. {RIGHT}", "The hint says so. The answer is (4 - 1)."
    texts = [long, RIGHT, WRONG, RIGHT, "The answer is 3.", hint]
    right, whole, hinted = (text.partition(" The answer")[0] for text in (RIGHT, long, hint))
    row = outcome("train", generated(*texts), min_rationale_words=1)
    assert (row.rationale, row.rationales) == (hinted, [hinted, right, whole])
    found = outcomes.rationales_table(outcome_table([row, outcome("train", generated(RIGHT))]))
    assert found.schema.equals(RATIONALE, check_metadata=True)
    texts_of_a = enumerate([hinted, right, whole])
    assert found.to_pylist() == [{"id": "a", "rationale": text, "index": i} for i, text in texts_of_a]
    short = outcome("train", generated(*texts), max_rationale_words=9, min_rationale_words=1)
    assert short.rationales == [hinted, right], "one that a filter refuses teaches nothing"
    assert row.content != short.content != outcome("train", generated(hint)).content
    again = attempts(generated(WRONG), generated(RIGHT, long, f"Hint: it is. {RIGHT}"), drop_giveaways=True)
    assert again.rationales == [right, whole], "with a hint, none may mention it"
    for alone in (outcome("train", generated(RIGHT, RIGHT, WRONG)), outcome("heldout", generated(*texts))):
        assert alone.rationales is None


@pytest.mark.parametrize(
    ("texts", "finish", "wanted"),
    [
        ([WRONG], "stop", True), (["I do not know."], "stop", True), (["I do not"], "length", True),
        ([RIGHT, WRONG], "stop", True),  # a tie
        ([RIGHT], "stop", False), ([WRONG, WRONG, RIGHT], "stop", True),
        ([RIGHT, "I do not know."], "stop", False),  # too little agreement, but with gold
    ],
)  # fmt: skip
def test_train_rows_without_the_gold_label_are_rationalised(texts: list[str], finish: str, wanted: bool) -> None:
    filters = FiltersConfig(gold="rationalise", min_agreement=0.7)
    generation = generated(*texts, finish=finish)
    row = judge("train", APPLES, generation, ARITHMETIC, filters)
    assert wants_rationalising(row, filters) == wanted
    assert not wants_rationalising(row, FiltersConfig(gold="drop-disagreeing", min_agreement=0.7))
    assert not wants_rationalising(judge("heldout", APPLES, generation, ARITHMETIC, filters), filters)
    without_gold = judge("train", Example("a", "input", None), generation, ARITHMETIC, filters)
    assert not wants_rationalising(without_gold, filters)


def test_validation_and_refused_rows_are_not_rationalised() -> None:
    examples = [Example(f"r{i}", APPLES.input, APPLES.gold) for i in range(40)]
    rows = [judge("train", example, generated(WRONG), ARITHMETIC, RATIONALISE) for example in examples]
    wanted = [row.id for row in rows if wants_rationalising(row, RATIONALISE, 0.5)]
    assert wanted == [example.id for example in examples if not is_validation(example.id, 0.5)]
    assert 0 < len(wanted) < 40
    refused = outcomes.refused("train", APPLES, PromptRefusedError("too_long", "9 tokens"))
    assert not wants_rationalising(refused, RATIONALISE)


@pytest.mark.parametrize(("first", "agrees"), [(WRONG, False), ("I do not know.", None)])
def test_a_second_answer_that_means_gold_is_accepted(first: str, agrees: bool | None) -> None:
    row = attempts(generated(first), generated("She keeps 4 - 1 = 3. The answer is 3."))
    assert (row.reason, row.output, row.note) == (None, None, RATIONALISED)
    assert (row.label, row.rationale) == ("4 - 1", "She keeps 4 - 1 = 3.")
    assert (row.votes, row.agreement, row.soft_label) == (1, 1.0, None)
    assert (row.prompt_tokens, row.output_tokens) == (200, 10)
    assert row.agrees is agrees, "the hint does not raise the teacher's accuracy"
    assert row.content == outcome("train", generated("She keeps 4 - 1 = 3. The answer is (4 - 1).")).content is not None


@pytest.mark.parametrize("second", [WRONG, "I do not know."])
@pytest.mark.parametrize(
    ("first", "reason"), [((WRONG,), "disagrees_with_gold"), (("No idea.",), "unparsable"), ((RIGHT, WRONG), "tie")]
)
def test_another_wrong_answer_leaves_the_first_reject(first: tuple[str, ...], reason: str, second: str) -> None:
    row = attempts(generated(*first), generated(second))
    assert row.reason == reason
    assert all(text in (row.output or "") for text in (*first, second))
    assert row.note != RATIONALISED
    assert (row.prompt_tokens, row.output_tokens) == (200, 5 * len(first) + 5)


@pytest.mark.parametrize(
    ("second", "filters", "reason"),
    [
        (["The answer is 3."], {"drop_giveaways": True}, "gives_label_away"),
        (["As the hint says, 4 - 1 = 3. The answer is 3."], {"drop_giveaways": True}, "gives_label_away"),
        ([RIGHT], {"drop_giveaways": True}, None),
        ([RIGHT], {"min_rationale_words": 20}, "rationale_length"),
        ([RIGHT, WRONG, RIGHT], {"min_agreement": 0.9}, "low_agreement"),
        ([RIGHT, WRONG, RIGHT], {"min_agreement": 0.6}, None),
    ],
)
def test_filters_apply_to_the_second_answer(second: list[str], filters: dict[str, Any], reason: str | None) -> None:
    row = attempts(generated(WRONG), generated(*second), **filters)
    assert row.reason == reason
    assert reason is None or all(text in (row.output or "") for text in (WRONG, *second))


def test_label_probabilities_make_the_soft_label() -> None:
    probabilities = (("neutral", 0.75), ("entailment", 0.25), ("contradiction", 0.0))
    one = Generation((said("neutral", *probabilities),), 100)
    assert judge("train", PAIR, one, NLI, FiltersConfig()).soft_label == probabilities
    three = Generation((*one.samples, *one.samples, said("maybe")), 100)
    row = judge("train", PAIR, three, NLI, FiltersConfig())
    assert row.votes == 3
    assert dict(row.soft_label) == pytest.approx({"neutral": 2.5 / 3, "entailment": 0.5 / 3, "contradiction": 0.0})


def test_token_logprobs_are_those_of_accepted_train_rows() -> None:
    def logprobs(first: int) -> TokenLogprobs:
        ids = np.arange(first, first + 6, dtype=np.int32).reshape(3, 2)
        return TokenLogprobs(ids[:, 0], ids, np.array([[-0.5, -np.inf]] * 3, dtype=np.float16))

    shorter = Sample("So. The answer is neutral.", 5, "stop", logprobs(10))  # its rationale is kept
    generation = Generation((said("neutral", logprobs=logprobs(0)), shorter), 100)
    gold, keep = Example("q", "x", "entailment"), FiltersConfig()
    rows = [
        judge("train", PAIR, generation, NLI, keep),
        judge("heldout", PAIR, generation, NLI, keep),
        judge("train", gold, generation, NLI, FiltersConfig(gold="drop-disagreeing")),
        judge("train", PAIR, generated("no idea"), NLI, keep),
        judge("train", PAIR, Generation((said("neutral"),), 9), NLI, keep),
    ]
    table = outcomes.token_logprobs_table(outcome_table(rows))
    assert table.schema.equals(TOKEN_LOGPROBS)
    top = {"top_ids": [[10, 11], [12, 13], [14, 15]], "top_logprobs": [[-0.5, -np.inf]] * 3}
    assert table.to_pylist() == [{"id": "p", "token_ids": [10, 12, 14], **top}]
    assert len(outcomes.token_logprobs_table(outcome_table(rows[3:]))) == 0
