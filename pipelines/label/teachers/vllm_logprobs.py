"""From vLLM's flat log-probabilities to ours, and the short ways into its tokenizers. Imports no vLLM."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pipelines.errors import UnparsableError
from pipelines.label.teachers.base import TokenLogprobs
from pipelines.label.teachers.label_probabilities import AnswerTokens, Distribution, label_probabilities
from pipelines.runtime.compat.vllm import FlatLogprobs
from pipelines.tasks import Example, Task


def top_k(flat: FlatLogprobs, requested: int, k: int) -> TokenLogprobs:
    """The k likeliest tokens at each position. `requested`: tokens per position that vLLM was asked for, at least k."""
    ids = np.asarray(flat.token_ids, dtype=np.int32).reshape(-1, requested + 1)
    logprobs = np.asarray(flat.logprobs, dtype=np.float32).reshape(-1, requested + 1)
    return TokenLogprobs(ids[:, 0].copy(), ids[:, 1 : k + 1].copy(), logprobs[:, 1 : k + 1].astype(np.float16))


def likeliest(flat: FlatLogprobs, requested: int) -> Callable[[int], Mapping[int, float]]:
    """Position -> {token: log-probability}, the sampled token included."""

    def at(position: int) -> Mapping[int, float]:
        part = slice(position * (requested + 1), (position + 1) * (requested + 1))
        return dict(zip(flat.token_ids[part], flat.logprobs[part], strict=True))

    return at


def distribution(
    text: str, tokens: AnswerTokens, task: Task, example: Example, answer: str | None = None
) -> Distribution | None:
    """The teacher's distribution over the example's labels. None if the answer has no label, or words it differently.

    Args:
        answer: the text without thoughts; None: the text has none.
    """
    answer = text if answer is None else answer
    offset = text.rfind(answer)
    try:
        place = task.label_place(answer, example)
    except UnparsableError:
        return None
    if place is None or offset < 0:
        return None
    return label_probabilities(tokens, text, dataclasses.replace(place, start=place.start + offset))


def decoder(tokenizer: Any) -> Callable[[Sequence[Sequence[int]]], list[str]]:
    """Token sequences -> texts without special tokens, in the fastest way that the tokenizer has."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return lambda sequences: list(backend.decode_batch(sequences, skip_special_tokens=True))
    return lambda sequences: [
        tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False) for ids in sequences
    ]


def encoder(tokenizer: Any) -> Callable[[str, bool], list[int]]:
    """(text, add special tokens) -> token ids. Equal to calling the tokenizer, in the fastest way that it has."""
    tokenizer("")  # resets truncation and padding that its file may ask for
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return lambda text, special: list(backend.encode_batch_fast([text], add_special_tokens=special)[0].ids)
    return lambda text, special: list(tokenizer(text, add_special_tokens=special)["input_ids"])


def cache_single_tokens(tokenizer: Any) -> None:
    """Make `tokenizer.decode([token])` a table lookup.

    vLLM decodes each of the k + 1 tokens of a position alone, in the process that also receives prompts. With k = 20 that takes 80 us
    per token of an answer, against 8 us with the table.
    """
    decode, table = tokenizer.decode, {}

    def cached(token_ids: Any, *arguments: Any, **options: Any) -> Any:
        if arguments or options or not isinstance(token_ids, list) or len(token_ids) != 1:
            return decode(token_ids, *arguments, **options)
        token = token_ids[0]
        if token not in table:
            table[token] = decode(token_ids)
        return table[token]

    tokenizer.decode = cached
