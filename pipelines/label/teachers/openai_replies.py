"""What an OpenAI-compatible endpoint returns: a response of `/completions` or `/chat/completions` -> samples."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.label.teachers.base import Generation, Sample
from pipelines.label.teachers.budget import estimate_tokens

_MAX_TOKENS = 2**31
"""Columns of tokens have 32 bits."""


@dataclass(frozen=True)
class Reply:
    """The answer to one request."""

    choices: tuple[tuple[str, str, str], ...]
    """(text, finish reason, thoughts that came apart from the text)"""
    prompt_tokens: int
    """As charged, like the next two: of all choices."""
    output_tokens: int
    cached_tokens: int = 0
    """Prompt tokens that the endpoint had in its cache."""
    problem: str = ""
    """Why no text can be made of it, although it is paid: a tool call, an image. Empty if there is nothing wrong."""


class _NoTextError(ValueError):
    """A choice is no text."""


def read_reply(response: Any, *, chat: bool, prompt_tokens: int) -> Reply | str:
    """The reply in a response, or what is wrong with the response.

    Args:
        response: with the attributes of openai's `Completion` or `ChatCompletion`.
        prompt_tokens: an estimate, for endpoints that return no usage.
    """
    found = getattr(response, "choices", None)
    if not found:
        error = getattr(response, "error", None)  # some gateways answer 200 with the failure inside
        return f"no choices{f', but {error}' if error else ''}"
    if isinstance(found, str) or not isinstance(found, Sequence):
        return f"choices of type {type(found).__name__}"
    if any(choice is None or (chat and getattr(choice, "message", None) is None) for choice in found):
        return "a choice without a message"
    problem = ""
    try:
        choices = tuple(_choice(choice, chat) for choice in found)
    except _NoTextError as error:
        choices, problem = (("", "unknown", ""),) * len(found), str(error)
    written = sum(estimate_tokens([text, thoughts]) for text, _, thoughts in choices)
    usage = getattr(response, "usage", None)
    prompt = _tokens(usage, "prompt_tokens", prompt_tokens)
    return Reply(choices, prompt, _tokens(usage, "completion_tokens", written), _cached(usage, prompt), problem)


def _choice(choice: Any, chat: bool) -> tuple[str, str, str]:
    """An entry of Reply.choices. Raises _NoTextError."""
    reason = str(getattr(choice, "finish_reason", None) or "unknown")
    if not chat:
        text, thoughts = _text(getattr(choice, "text", None))
        return text, reason, thoughts
    text, thoughts = _text(getattr(choice.message, "content", None))
    thoughts = thoughts or _apart(choice.message)
    if not text and (refusal := getattr(choice.message, "refusal", None)):
        text = str(refusal)
    if not text and not thoughts:
        for name in ("tool_calls", "function_call"):
            if getattr(choice.message, name, None):
                raise _NoTextError(f"the answer is no text but `{name}`")
    return text, reason, thoughts


def _text(content: Any) -> tuple[str, str]:
    """(text, thoughts) of a content: a text, null, or a list of parts, as Mistral and gateways return it."""
    if content is None or isinstance(content, str):
        return content or "", ""
    if not isinstance(content, Sequence):
        raise _NoTextError(f"the answer's content is no text but {type(content).__name__}")
    texts, thoughts = [], []
    for part in content:
        kind, found = _field(part, "type"), _field(part, "text")
        if kind in ("text", "output_text") and isinstance(found, str):
            texts.append(found)
        elif kind == "thinking":
            inner = _field(part, "thinking")
            thoughts.append(inner if isinstance(inner, str) else "".join(_text(inner)))
        else:
            raise _NoTextError(f"the answer has a part that is no text but {kind or type(part).__name__!r}")
    return "".join(texts), "\n".join(thoughts)


def _field(part: Any, name: str) -> Any:
    return part.get(name) if isinstance(part, Mapping) else getattr(part, name, None)


def _tokens(usage: Any, name: str, estimate: int) -> int:
    """A count of the usage. The estimate if there is none: some gateways send null or no usage."""
    try:
        found = int(getattr(usage, name, None))  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return estimate
    return found if 0 <= found < _MAX_TOKENS else estimate


def generation_of(replies: Sequence[Reply], n: int) -> Generation:
    """The first n samples of the replies to one prompt."""
    texts = [choice for reply in replies for choice in reply.choices][:n]
    weights = [len(text) + len(thoughts) for text, _, thoughts in texts]
    tokens = _split(sum(reply.output_tokens for reply in replies), weights)
    samples = (_sample(*choice, count) for choice, count in zip(texts, tokens, strict=True))
    prompt_tokens, cached = sum(r.prompt_tokens for r in replies), sum(r.cached_tokens for r in replies)
    return Generation(tuple(samples), prompt_tokens, cached)


def _cached(usage: Any, prompt_tokens: int) -> int:
    """OpenAI, vLLM: `prompt_tokens_details.cached_tokens`. DeepSeek: `prompt_cache_hit_tokens`."""
    found = _tokens(getattr(usage, "prompt_tokens_details", None), "cached_tokens", 0)
    return min(found or _tokens(usage, "prompt_cache_hit_tokens", 0), prompt_tokens)


def _apart(message: Any) -> str:
    """Thoughts that a server has parsed itself: `reasoning_content` (vLLM, DeepSeek, SGLang) or `reasoning` (OpenRouter, newer vLLM)."""
    found = [getattr(message, name, None) for name in ("reasoning_content", "reasoning")]
    return next((text for text in found if isinstance(text, str) and text), "")


def _sample(text: str, reason: str, thoughts: str, tokens: int) -> Sample:
    """A sample. If the server has cut the thoughts and nothing is left, they do not end. So do thoughts that it does not show."""
    return Sample(text, tokens, reason, thoughts=thoughts, thoughts_end=not thoughts or bool(text.strip()))


def _split(total: int, weights: list[int]) -> list[int]:
    """`total` in whole parts proportional to `weights`. Endpoints count the tokens of all choices together."""
    whole = sum(weights) or 1
    bounds = [math.floor(total * sum(weights[:i]) / whole) for i in range(len(weights))] + [total]
    return [upper - lower for lower, upper in itertools.pairwise(bounds)]
