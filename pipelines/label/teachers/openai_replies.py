"""What an OpenAI-compatible endpoint returns: a response of `/completions` or `/chat/completions` -> samples."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.label.teachers.base import Generation, Sample
from pipelines.label.teachers.budget import estimate_tokens


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
    texts = [(c.message.content if chat else c.text) or "" for c in found]
    thoughts = [_apart(c.message) if chat else "" for c in found]
    reasons = [c.finish_reason or "unknown" for c in found]
    choices = tuple(zip(texts, reasons, thoughts, strict=True))
    usage = getattr(response, "usage", None)
    if usage is None:
        return Reply(choices, prompt_tokens, sum(estimate_tokens([text]) for text in (*texts, *thoughts)))
    return Reply(choices, int(usage.prompt_tokens or 0), int(usage.completion_tokens or 0), _cached(usage))


def generation_of(replies: Sequence[Reply], n: int) -> Generation:
    """The first n samples of the replies to one prompt."""
    texts = [choice for reply in replies for choice in reply.choices][:n]
    weights = [len(text) + len(thoughts) for text, _, thoughts in texts]
    tokens = _split(sum(reply.output_tokens for reply in replies), weights)
    samples = (_sample(*choice, count) for choice, count in zip(texts, tokens, strict=True))
    prompt_tokens, cached = sum(r.prompt_tokens for r in replies), sum(r.cached_tokens for r in replies)
    return Generation(tuple(samples), prompt_tokens, cached)


def _cached(usage: Any) -> int:
    """OpenAI, vLLM: `prompt_tokens_details.cached_tokens`. DeepSeek: `prompt_cache_hit_tokens`."""
    details = getattr(usage, "prompt_tokens_details", None)
    found = getattr(details, "cached_tokens", None) or getattr(usage, "prompt_cache_hit_tokens", None)
    return min(int(found), int(usage.prompt_tokens or 0)) if isinstance(found, int) and found > 0 else 0


def _apart(message: Any) -> str:
    """Thoughts that a server has parsed itself: `reasoning_content` (vLLM, DeepSeek, SGLang) or `reasoning` (OpenRouter, newer vLLM)."""
    found = [getattr(message, name, None) for name in ("reasoning_content", "reasoning")]
    return next((text for text in found if isinstance(text, str) and text), "")


def _sample(text: str, reason: str, thoughts: str, tokens: int) -> Sample:
    """A sample. If the server has cut the thoughts and nothing is left, they do not end."""
    return Sample(text, tokens, reason, thoughts=thoughts, thoughts_end=not thoughts or bool(text.strip()))


def _split(total: int, weights: list[int]) -> list[int]:
    """`total` in whole parts proportional to `weights`. Endpoints count the tokens of all choices together."""
    whole = sum(weights) or 1
    bounds = [math.floor(total * sum(weights[:i]) / whole) for i in range(len(weights))] + [total]
    return [upper - lower for lower, upper in itertools.pairwise(bounds)]
