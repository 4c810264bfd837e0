"""Distributions from hand-worked log-probabilities, with the embedded teacher's real tokenizer."""

import math
from typing import Any

import pytest

from pipelines.label.teachers.base import Sample
from pipelines.label.teachers.label_probabilities import AnswerTokens, label_probabilities, mean_distribution
from pipelines.label.teachers.vllm_logprobs import decoder, distribution, encoder
from pipelines.tasks import Answer, Example, load_task, task_spec
from pipelines.tasks.parsing.label_patterns import LabelPlace
from tests.support.answer_tokens import CASES, CHOICES, NEUTRAL, At, answer, tokenizer

__all__ = ["tokenizer"]

NLI = load_task(task_spec("nli"))
EXAMPLE = Example("a", "x", None)


@pytest.mark.parametrize(("name", "labels", "pieces", "at", "masses"), CASES.values(), ids=CASES)
def test_likeliest_tokens_give_the_distribution(
    tokenizer: Any, name: str, labels: list[str] | None, pieces: list[str], at: At, masses: dict[str, float]
) -> None:
    task = load_task(task_spec(name, {"labels": labels} if labels else {}))
    example = CHOICES if name == "multiple-choice" else EXAMPLE
    found = distribution("".join(pieces), answer(tokenizer, pieces, at), task, example)
    assert dict(found) == pytest.approx({label: mass / sum(masses.values()) for label, mass in masses.items()})
    assert [p for _, p in found] == sorted((p for _, p in found), reverse=True)


def test_labels_whose_characters_are_several_tokens(tokenizer: Any) -> None:
    labels = ("雨", "雪", "sun")
    text = " The answer is 雪."
    ids = tokenizer(text)["input_ids"]
    rain = tokenizer(" The answer is 雨.")["input_ids"]
    differ = next(i for i, (a, b) in enumerate(zip(ids, rain, strict=False)) if a != b)
    assert differ > 3, "the two characters begin with the same token"

    def likeliest(position: int) -> dict[int, float]:
        if position == differ:
            return {ids[position]: math.log(0.75), rain[position]: math.log(0.25)}
        return {ids[position]: 0.0}

    tokens = AnswerTokens(ids, (), likeliest, decoder(tokenizer))
    found = label_probabilities(tokens, text, LabelPlace(text.index("雪"), "雪", tuple((x, x) for x in labels)))
    assert dict(found or ()) == pytest.approx({"雪": 0.75, "雨": 0.25, "sun": 0.0})


def test_an_answer_without_a_label_place_has_no_distribution(tokenizer: Any) -> None:
    tokens = answer(tokenizer, NEUTRAL, {})
    for label in ("maybe", "contradiction"):
        assert distribution(f" It is so. The answer is {label}.", tokens, NLI, EXAMPLE) is None
    for text in ("no idea", "x" * 99 + ". The answer is neutral."):
        assert distribution(text, tokens, NLI, EXAMPLE) is None


def test_every_token_is_found_by_its_offset(tokenizer: Any) -> None:
    text = " Größe 雪: the quick brown fox,\tjumps -- over 1,234 dogs 🐕."
    ids = tokenizer(text)["input_ids"]
    tokens = AnswerTokens(ids, (), lambda _: {}, decoder(tokenizer))
    ends = [tokens.length_of(count + 1) for count in range(len(ids))]
    assert ends[-1] == len(text)
    for offset in range(len(text)):
        assert tokens.position_of(offset) == next(i for i, end in enumerate(ends) if end > offset)


WITHOUT = Sample("", 1, "stop")


def test_samples_are_averaged_and_votes_count_in_full() -> None:
    first = Sample("", 1, "stop", None, (("neutral", 0.7), ("contradiction", 0.3), ("entailment", 0.0)))
    answers = [Answer("neutral", ""), None, Answer("entailment", "")]
    mean = mean_distribution([first, first, WITHOUT], answers, NLI)
    assert dict(mean) == pytest.approx({"neutral": 0.35, "entailment": 0.5, "contradiction": 0.15})
    assert mean[0][0] == "entailment"
    assert mean_distribution([first, WITHOUT, WITHOUT], [None, *answers[1:]], NLI) is None


def test_the_fast_encoder_equals_the_tokenizer(tokenizer: Any) -> None:
    encode = encoder(tokenizer)
    for text in ("", " a", "Q: 雪 <|im_start|>user\nWhat?<|im_end|>\n\nA:"):
        for special in (True, False):
            assert encode(text, special) == tokenizer(text, add_special_tokens=special)["input_ids"]
