"""Prompts and targets as token ids.

An encoder-decoder student reads the prompt in its encoder. A decoder-only student reads the prompt and a line break, then generates
the target and the end-of-sequence token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

Family = Literal["encoder-decoder", "decoder-only"]


def encode_prompt(tokenizer: Any, family: Family, prompt: str) -> list[int]:
    """Token ids of a prompt. Decoder-only: with the final line break, and BOS if the tokenizer adds one."""
    if family == "encoder-decoder":
        return list(tokenizer(prompt)["input_ids"])
    return list(tokenizer(prompt + "\n")["input_ids"])


def encode_target(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a target, with the end-of-sequence token."""
    return encode_targets(tokenizer, [text])[0]


def encode_targets(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of several targets, each with the end-of-sequence token."""
    encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return [[*ids, tokenizer.eos_token_id] for ids in encoded]


def tokens_within(ids: Sequence[int], characters: int, tokenizer: Any) -> int:
    """Number of leading tokens whose text has at most `characters` characters."""
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high + 1) // 2
        if len(tokenizer.decode(ids[:middle], skip_special_tokens=True)) <= characters:
            low = middle
        else:
            high = middle - 1
    return low
