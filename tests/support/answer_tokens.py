"""Answers as tokens of the embedded teacher's real tokenizer, with log-probabilities worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from cluster.commands.embedded_teacher import embedded_teacher
from pipelines.label.teachers.label_probabilities import AnswerTokens
from pipelines.label.teachers.vllm_logprobs import decoder


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """The embedded teacher's."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(embedded_teacher())


def token(tokenizer: Any, text: str) -> int:
    """The one token of a text."""
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
