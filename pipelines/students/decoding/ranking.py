"""Ranks given texts by their likelihood after a prompt, for models of both families in transformers.

    rank_texts(student, ["... Q: Is it raining?\\nA: The answer is"], [[" yes.", " no."]]) -> [[-0.4, -2.1]]

So a model without training for the task can answer a few-shot prompt, and every answer is a label.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from pipelines.students.chat_prompt import chat_prompt
from pipelines.students.decoding.tokens import encode_prompt, encode_texts
from pipelines.students.decoding.transformers_student import Student


def rank_texts(student: Student, prompts: Sequence[str], texts: Sequence[Sequence[str]]) -> list[list[float]]:
    """Natural logarithm of the probability of each text after its prompt.

    The sum covers the tokens of the text, without an end-of-sequence token. A text that continues another one is therefore never likelier
    than that one: end both with a full stop or a line break. A decoder-only model reads the common beginning of all prompts once.

    Args:
        prompts: what the model reads: without the prefix of a method or a final line break, in the chat template of a student that has one.
        texts: for each prompt, at least one.

    Raises:
        ValueError: a prompt or a text has no tokens.
    """
    import torch

    if not prompts:
        return []
    with torch.inference_mode():
        if student.family == "encoder-decoder":
            return [_after_encoder(student, prompt, some) for prompt, some in zip(prompts, texts, strict=True)]
        split = [_split(student, prompt, some) for prompt, some in zip(prompts, texts, strict=True)]
        shared = _common_tokens([context for context, _ in split])
        shared = min(shared, *(len(context) - 1 for context, _ in split))
        cache = None
        if shared:
            cache = student.model(input_ids=_ids(student, [split[0][0][:shared]]), use_cache=True).past_key_values
        return [_after_context(student, context, targets, shared, cache) for context, targets in split]


def _after_encoder(student: Student, prompt: str, texts: Sequence[str]) -> list[float]:
    targets = encode_texts(student.tokenizer, texts, add_special_tokens=False)
    start, longest = student.model.config.decoder_start_token_id, max(map(len, targets))
    if not all(targets):
        raise ValueError(f"a text has no tokens: {list(texts)!r}")
    # The decoder is causal: padding behind a text changes none of its scores.
    inputs = [[start, *target, *[0] * (longest - len(target))] for target in targets]
    encoder = student.model.get_encoder()
    read = encoder(input_ids=_ids(student, encode_texts(student.tokenizer, [prompt], add_special_tokens=True)))
    read.last_hidden_state = read.last_hidden_state.expand(len(targets), -1, -1)
    log_probs = (
        student.model(encoder_outputs=read, decoder_input_ids=_ids(student, inputs)).logits.float().log_softmax(-1)
    )
    return [_sum(log_probs[row], target) for row, target in enumerate(targets)]


def _after_context(
    student: Student, context: list[int], targets: list[list[int]], shared: int, cache: Any | None
) -> list[float]:
    """`cache`: keys and values of the first `shared` tokens of the context."""
    import torch

    read = student.model(
        input_ids=_ids(student, [context[shared:]]), past_key_values=copy.deepcopy(cache), use_cache=True
    )
    first = read.logits[0, -1:].float().log_softmax(-1)
    longest = max(map(len, targets))
    if longest == 1:
        return [_sum(first, target) for target in targets]
    read.past_key_values.batch_repeat_interleave(len(targets))
    inputs = [[*target[:-1], *[0] * (longest - len(target))] for target in targets]
    # Attention is causal: padding behind a text changes none of its scores.
    logits = student.model(input_ids=_ids(student, inputs), past_key_values=read.past_key_values).logits
    rest = logits.float().log_softmax(-1)
    return [_sum(torch.cat([first, rest[row]]), target) for row, target in enumerate(targets)]


def encode_context(student: Student, prompt: str) -> list[int]:
    """Token ids of a prompt without a final line break, or in the student's chat template."""
    if chat_prompt(student.tokenizer):
        return encode_prompt(student.tokenizer, student.family, prompt)
    return encode_texts(student.tokenizer, [prompt], add_special_tokens=True)[0]


def _split(student: Student, prompt: str, texts: Sequence[str]) -> tuple[list[int], list[list[int]]]:
    """Tokens of the prompt, and of each text. A token that spans both belongs to the texts."""
    tokenizer, alone = student.tokenizer, encode_context(student, prompt)
    if chat_prompt(tokenizer):  # a turn begins without white space
        shared = len(alone)
        targets = encode_texts(tokenizer, [text.lstrip() for text in texts], add_special_tokens=False)
    else:
        whole = encode_texts(tokenizer, [prompt + text for text in texts], add_special_tokens=True)
        shared = _common_tokens([alone, *whole])
        targets = [ids[shared:] for ids in whole]
    if not shared or not all(targets):
        raise ValueError(f"the prompt or a text has no tokens: {prompt[-40:]!r}, {list(texts)!r}")
    return alone[:shared], targets


def _common_tokens(sequences: Sequence[Sequence[int]]) -> int:
    """Length of the common beginning."""
    columns = zip(*sequences, strict=False)
    return next((i for i, column in enumerate(columns) if len(set(column)) > 1), min(map(len, sequences)))


def _ids(student: Student, rows: list[list[int]]) -> Any:
    import torch

    return torch.tensor(rows, device=student.device)


def _sum(log_probs: Any, target: list[int]) -> float:
    """`log_probs`: (steps, vocabulary) with at least one step for each token of the target."""
    return float(sum(log_probs[step, token] for step, token in enumerate(target)))
