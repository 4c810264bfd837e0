"""Answers as tokens of the embedded teacher's real tokenizer, with log-probabilities worked out by hand."""

import math
from typing import Any

import pytest

from pipelines.label.teachers.label_probabilities import AnswerTokens
from pipelines.label.teachers.vllm_logprobs import decoder
from pipelines.students.embedded_teacher import embedded_teacher
from pipelines.tasks import Example

NEUTRAL = [" It", " is", " so", ".", " The", " answer", " is", " neutral", "."]
CHOSEN = [" So", " the", " answer", " is", " (", "c", ")", " basket", "."]
CHOICES = Example("a", "x", None, ("lamp", "river", "basket", "Basket"))
SURE = [" The", " answer", " is", " not", " sure", "."]
BUS = [" The", " answer", " is", " bus", "."]
BUSES = {3: {" bus": 0.8, " car": 0.2}, 4: {".": 0.5, " station": 0.25, " stops": 0.125, "es": 0.125}}
At = dict[int, dict[str, float]]
Case = tuple[str, list[str] | None, list[str], At, dict[str, float]]
"""Task, its label set, the answer's tokens, the likeliest tokens by position, the mass per label before it is normalised."""
CASES: dict[str, Case] = {
    # " contrad" begins contradiction, " ent" entailment, " Neutral" is neutral too; " the" counts for none.
    "first tokens differ": (
        "nli", None, NEUTRAL, {7: {" neutral": 0.4, " contrad": 0.2, " ent": 0.1, " Neutral": 0.1, " the": 0.15}},
        {"neutral": 0.5, "contradiction": 0.2, "entailment": 0.1},
    ),
    "a space begins every label and counts for none": (
        "nli", None, NEUTRAL, {7: {" neutral": 0.4, " ": 0.5, " ent": 0.1}},
        {"neutral": 0.4, "entailment": 0.1, "contradiction": 0.0},
    ),
    **{f"letters of equal choices are added ({letter})": (
        "multiple-choice", None, [*CHOSEN[:5], letter, *CHOSEN[6:]],
        {5: {letter: 0.3, "d": 0.2, "a": 0.25, "A": 0.05, "cat": 0.1, "e": 0.1}}, {"basket": 0.5, "lamp": 0.3, "river": 0.0},
    ) for letter in "cC"},
    "one beginning, told apart on the sampled path": (
        "classification", ["not sure", "not safe", "safe"], SURE,
        {3: {" not": 0.6, " safe": 0.3, " a": 0.1}, 4: {" sure": 0.7, " safe": 0.1, " the": 0.2}},
        {"not sure": 0.6 * 0.7, "not safe": 0.6 * 0.1, "safe": 0.3},
    ),
    # " stops" is a new word after the label `bus`; "es" would make another word of the label.
    "a label begins another": (
        "classification", ["bus", "bus station", "car"], BUS, BUSES,
        {"bus": 0.8 * (0.5 + 0.125), "bus station": 0.8 * 0.25, "car": 0.2},
    ),
    "a cut answer has the label that it spells": (
        "classification", ["bus", "bus station", "car"], BUS[:4], BUSES, {"bus": 0.8, "bus station": 0.0, "car": 0.2},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(embedded_teacher())


def token(tokenizer: Any, text: str) -> int:
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == 1, f"{text!r} is {tokenizer.convert_ids_to_tokens(ids)}"
    return int(ids[0])


def answer(tokenizer: Any, pieces: list[str], at: dict[int, dict[str, float]]) -> AnswerTokens:
    """An answer of these tokens. `at`: position -> {text of a token: probability}; elsewhere the sampled token is certain."""
    ids = [i for piece in pieces for i in tokenizer(piece)["input_ids"]]
    assert len(ids) == len(pieces), tokenizer.convert_ids_to_tokens(ids)

    def likeliest(position: int) -> dict[int, float]:
        given = at.get(position, {pieces[position]: 1.0})
        return {token(tokenizer, text): math.log(probability) for text, probability in given.items()}

    return AnswerTokens(ids, tokenizer("A:")["input_ids"], likeliest, decoder(tokenizer))
