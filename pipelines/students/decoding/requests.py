"""Requests to a student, and its outputs.

GenerationRequest("[label] Anne has 4 apples ...", max_new_tokens=64)
  -> GenerationOutput(ids=(220, 19, 481, 17, 0), log_probs=(-0.02, ...), prompt_tokens=24, finish_reason="stop")
  -> Decoded(text="4 - 2 - 1", confidence=0.93, prompt_tokens=24, output_tokens=5)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pipelines.methods import Part
from pipelines.students.decoding.label_scores import STATEMENT, LabelSet
from pipelines.students.decoding.tokens import Family, encode_prompt, tokens_within


@dataclass(frozen=True)
class Sampling:
    """Draw answers from the student's distribution instead of the likeliest one.

    Each text has its own random stream: equal text and settings give the same answer in any batch (in float32).
    """

    temperature: float
    """Above 0. 1 keeps the student's distribution."""
    seed: int = 0
    draw: int = 0
    """Index of the answer among several to the same text."""
    top_p: float = 1.0
    """Draw from the smallest set of likeliest tokens whose probabilities sum to this or more."""


@dataclass(frozen=True)
class GenerationRequest:
    """A text to generate."""

    prompt: str
    """With its prefix."""
    max_new_tokens: int
    sampling: Sampling | None = None
    """None: greedy."""
    labels: LabelSet | None = None
    """Closed label set of the answer, for its probability. None: free text."""
    constrained: bool = False
    """True: the answer must be a label of the set (constrained.py). Neither sampled nor streamed."""
    written: tuple[int, ...] = ()
    """Tokens of the answer so far, which the new ones follow."""
    ids: tuple[int, ...] | None = field(default=None, compare=False, repr=False)
    """Token ids of the prompt, if it has been encoded."""
    bulk: bool = field(default=False, compare=False, repr=False)
    """True: other requests go first."""

    @property
    def watched(self) -> tuple[int, ...]:
        """Tokens whose scores are needed at each step, in addition to the generated token's."""
        return self.labels.watched if self.labels else ()

    def encoded(self, tokenizer: Any, family: Family) -> list[int]:
        """Token ids of the prompt."""
        return encode_prompt(tokenizer, family, self.prompt) if self.ids is None else list(self.ids)

    def with_labels(self, labels: LabelSet | None, *, constrained: bool = False) -> GenerationRequest:
        """The request with a label set. A constrained label may be longer than `max_new_tokens`."""
        if labels is None:
            return self
        limit = labels.longest if constrained and not labels.at_end else self.max_new_tokens
        return replace(self, labels=labels, constrained=constrained, max_new_tokens=limit)


@dataclass(frozen=True)
class GenerationOutput:
    """Tokens generated for one request."""

    ids: tuple[int, ...]
    """With the end-of-sequence token if it was generated."""
    log_probs: tuple[float, ...]
    """Natural logarithm of each token's probability in the student's own distribution, (len(ids),). Empty for a label that replaces a free
    answer."""
    prompt_tokens: int
    finish_reason: Literal["stop", "length"]
    label_log_prob: float | None = None
    """Natural logarithm of the label's probability in the request's set (LabelSet.log_prob). None if no label of the set matches."""

    def text(self, tokenizer: Any) -> str:
        """Text of the tokens, without special tokens."""
        return str(tokenizer.decode(list(self.ids), skip_special_tokens=True))


@dataclass(frozen=True)
class Decoded:
    """One part of a student's answer."""

    text: str
    confidence: float
    """Product of the probabilities of the label's tokens and the end-of-sequence token. All tokens count for a rationale, and for a
    text without `answer is`.

    Renormalised over a closed label set (label_scores.py). An answer that matches no label of the set keeps the plain product."""
    prompt_tokens: int
    output_tokens: int
    in_set: bool | None = None
    """True if the answer is a label of the closed set as trained, and the confidence is renormalised. None: no closed set."""


def after_label(request: GenerationRequest, label: GenerationOutput, eos: int, max_tokens: int) -> GenerationRequest:
    """Request for the rationale that follows a label in one sequence (methods.Method.continues).

    Args:
        request: of the label.
        max_tokens: limit for label and rationale together; 3 if it is lower. Of a longer label the end is cut.
    """
    max_tokens = max(max_tokens, 3)
    ended = label.ids[:-1] if label.ids[-1:] == (eos,) else label.ids
    written = (*ended[: max_tokens - 2], eos)
    return replace(request, max_new_tokens=max_tokens - len(written), labels=None, constrained=False, written=written)


def decoded(part: Part, request: GenerationRequest, output: GenerationOutput, tokenizer: Any) -> Decoded:
    """Decode the tokens of one part of an answer."""
    labels, log_prob = request.labels, output.label_log_prob
    # The label itself: the tokenizer may not be able to write all its characters.
    is_label = labels is not None and request.constrained and not labels.at_end
    text = labels.text_of(output.ids) if labels is not None and is_label else output.text(tokenizer)
    if log_prob is None:
        first = _label_start(output.ids, text, tokenizer) if part == "text" else 0
        log_prob = math.fsum(output.log_probs[first:])
    return Decoded(
        text=text.strip(),
        confidence=math.exp(log_prob),
        prompt_tokens=output.prompt_tokens,
        output_tokens=len(output.ids),
        in_set=None if labels is None else output.label_log_prob is not None,
    )


def _label_start(ids: Sequence[int], text: str, tokenizer: Any) -> int:
    """Index of the first token after the last `answer is`. 0 if the text has none."""
    position = text.rfind(STATEMENT)
    return 0 if position < 0 else tokens_within(ids, position + len(STATEMENT), tokenizer)
