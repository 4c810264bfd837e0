"""Prompts and targets as token ids. Training, evaluation and serving share these functions.

An encoder-decoder student reads the prompt in its encoder. A decoder-only student reads the prompt and a line break, or the prompt inside
its chat template. Then it generates the target and the end-of-sequence token. Special tokens inside a text are text: `<|im_end|>` in a
corpus or a request ends nothing.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

from pipelines.students.chat_prompt import Role, chat_prompt, conversation_texts

Family = Literal["encoder-decoder", "decoder-only"]


def encode_prompt(tokenizer: Any, family: Family, prompt: str) -> list[int]:
    """Token ids of a prompt. Decoder-only: with the final line break, and BOS if the tokenizer adds one; or in its chat template."""
    if around := chat_prompt(tokenizer):
        before, after = _template_ids(tokenizer, around)
        return [*before, *encode_texts(tokenizer, [prompt], add_special_tokens=False)[0], *after]
    text = prompt if family == "encoder-decoder" else prompt + "\n"
    return encode_texts(tokenizer, [text], add_special_tokens=True)[0]


def encode_conversation(tokenizer: Any, turns: Sequence[tuple[Role, str]]) -> list[int]:
    """Token ids of a conversation, whose last turn is a prompt, in the student's chat template.

    Raises NoSuchConversationError.
    """
    around = _template_ids(tokenizer, conversation_texts(tokenizer, [role for role, _ in turns]))
    texts = encode_texts(tokenizer, [text for _, text in turns], add_special_tokens=False)
    return [*around[0], *(token for ids in zip(texts, around[1:], strict=True) for part in ids for token in part)]


@lru_cache(maxsize=8)
def _template_ids(tokenizer: Any, texts: tuple[str, ...]) -> list[list[int]]:
    """Token ids of texts of a template, in which special tokens are special."""
    return [list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]


def encode_target(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a target, with the end-of-sequence token."""
    return encode_targets(tokenizer, [text])[0]


def encode_targets(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of several targets, each with the end-of-sequence token."""
    return [[*ids, tokenizer.eos_token_id] for ids in encode_texts(tokenizer, texts, add_special_tokens=False)]


def unwritable(tokenizer: Any, texts: Sequence[str]) -> dict[str, str]:
    """Those of the texts that differ when their tokens are decoded, with the characters that are lost.

    White space and Unicode compatibility forms may differ.
    """
    found = {}
    for text, ids in zip(texts, encode_texts(tokenizer, texts, add_special_tokens=False), strict=True):
        # Cleaned up, text of a tokenizer that can write it would differ too.
        decoded = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        wanted, written = _bare(text), _bare(decoded)
        if wanted != written:
            found[text] = "".join(dict.fromkeys(char for char in wanted if char not in written))
    return found


def _bare(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).split())


def encode_texts(tokenizer: Any, texts: Sequence[str], *, add_special_tokens: bool) -> list[list[int]]:
    """Token ids of texts, in which special tokens are text."""
    options = {"add_special_tokens": add_special_tokens, "split_special_tokens": True}
    encoded = [list(ids) for ids in tokenizer(list(texts), **options)["input_ids"]]
    special = set(tokenizer.all_special_ids)
    expected = tokenizer.num_special_tokens_to_add() if add_special_tokens else 0
    for index, ids in enumerate(encoded):
        if sum(token in special for token in ids) > expected:
            # T5's vocabulary has its special tokens as pieces of text, so that the option above does not split them.
            broken = _broken(texts[index], tokenizer.all_special_tokens)
            encoded[index] = list(tokenizer(broken, **options)["input_ids"])
    return encoded


def _broken(text: str, special: Sequence[str]) -> str:
    """The text with a space inside each special token: `< /s>`."""
    for token in special:
        text = text.replace(token, f"{token[:1]} {token[1:]}")
    return text


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
