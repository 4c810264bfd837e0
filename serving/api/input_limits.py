"""The limit of an input in characters, before anything reads it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pipelines.config.serving import ServingConfig
from serving.api.errors import ApiError
from serving.model_card import StudentCard

_CHARACTERS_PER_TOKEN = 32
"""Words have about 5 characters a token. No text in a language has this many."""


def check_characters(value: Any, param: str, card: StudentCard, serving: ServingConfig) -> None:
    """Raises ApiError 422 if the texts of a value are longer than the student can read. `value`: text, or texts in lists."""
    limit = min(serving.limits.input_characters, _CHARACTERS_PER_TOKEN * card.max_input_tokens)
    if (length := _length(value)) > limit:
        message = (
            f"{param} has {length:,} characters, the limit is {limit:,}: model {card.id} reads at most "
            f"{card.max_input_tokens:,} tokens"
        )
        raise ApiError(422, "input_too_long", message, param=param)


def _length(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    return sum(map(_length, value)) if isinstance(value, Iterable) and not isinstance(value, dict) else 0
