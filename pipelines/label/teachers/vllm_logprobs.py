"""What vLLM returns as log-probabilities -> ours. Nothing here imports vLLM.

vLLM's flat form holds, for each position, the sampled token and then the k likeliest ones, whether or not the sampled one is among them:

    token_ids  [s0, a0, b0, ..., s1, a1, b1, ...]      logprobs the same      (T x (k + 1) entries)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from pipelines.errors import UnparsableError
from pipelines.label.teachers.base import TokenLogprobs
from pipelines.label.teachers.label_probabilities import AnswerTokens, Distribution, label_probabilities
from pipelines.tasks import Example, Task


class FlatLogprobs(Protocol):
    """vllm.logprobs.FlatLogprobs, as far as it is read here."""

    token_ids: list[int]
    logprobs: list[float]


def top_k(flat: FlatLogprobs, asked: int, k: int) -> TokenLogprobs:
    """The k likeliest tokens at each position. `asked`: how many vLLM was asked for, at least k."""
    ids = np.asarray(flat.token_ids, dtype=np.int32).reshape(-1, asked + 1)
    logprobs = np.asarray(flat.logprobs, dtype=np.float32).reshape(-1, asked + 1)
    return TokenLogprobs(ids[:, 0].copy(), ids[:, 1 : k + 1].copy(), logprobs[:, 1 : k + 1].astype(np.float16))


def likeliest(flat: FlatLogprobs, asked: int) -> Callable[[int], Mapping[int, float]]:
    """Position -> {token: log-probability}, the sampled token among them."""

    def at(position: int) -> Mapping[int, float]:
        part = slice(position * (asked + 1), (position + 1) * (asked + 1))
        return dict(zip(flat.token_ids[part], flat.logprobs[part], strict=True))

    return at


def distribution(text: str, tokens: AnswerTokens, task: Task, example: Example) -> Distribution | None:
    """The teacher's distribution over the example's labels. None where the answer has no label, or states it in other words."""
    try:
        place = task.label_place(text, example)
    except UnparsableError:
        return None
    return None if place is None else label_probabilities(tokens, text, place)


def decoder(tokenizer: Any) -> Callable[[Sequence[Sequence[int]]], list[str]]:
    """Token sequences -> texts without special tokens, by the shortest way that the tokenizer offers."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return lambda sequences: list(backend.decode_batch(sequences, skip_special_tokens=True))
    return lambda sequences: [
        tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False) for ids in sequences
    ]


def encoder(tokenizer: Any) -> Callable[[str, bool], list[int]]:
    """(text, whether to add special tokens) -> token ids, the same as calling the tokenizer, by the shortest way that it offers."""
    tokenizer("")  # switches off what truncation and padding its file may ask for
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return lambda text, special: list(backend.encode_batch_fast([text], add_special_tokens=special)[0].ids)
    return lambda text, special: list(tokenizer(text, add_special_tokens=special)["input_ids"])


def decode_single_tokens_from_a_table(tokenizer: Any) -> None:
    """Make `tokenizer.decode([token])` a look-up.

    vLLM decodes each of the k + 1 tokens of each position by itself, in the process that also hands out prompts: 80 us per token of an
    answer with k = 20, against 8 us with the table.
    """
    decode, table = tokenizer.decode, {}

    def decode_or_look_up(token_ids: Any, *arguments: Any, **options: Any) -> Any:
        if arguments or options or not isinstance(token_ids, list) or len(token_ids) != 1:
            return decode(token_ids, *arguments, **options)
        token = token_ids[0]
        if token not in table:
            table[token] = decode(token_ids)
        return table[token]

    tokenizer.decode = decode_or_look_up
