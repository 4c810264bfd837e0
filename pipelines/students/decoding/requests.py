"""What a student is asked to write, and what it wrote.

Order("[label] Anne has 4 apples ...", max_new_tokens=64)
  -> Written(ids=(220, 19, 481, 17, 0), log_probs=(-0.02, ...), prompt_tokens=24, finish_reason="stop")
  -> Decoded(text="4 - 2 - 1", confidence=0.93, prompt_tokens=24, output_tokens=5)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.methods import Part
from pipelines.students.decoding.label_scores import STATEMENT, LabelSet
from pipelines.students.decoding.tokens import tokens_within


@dataclass(frozen=True)
class Sampling:
    """Answers drawn from the student's distribution, in place of the likeliest one. The same text and numbers give the same answer, however
    it is batched (in float32): each text has a stream of chance of its own."""

    temperature: float
    """Above 0; 1: the distribution as it is."""
    seed: int = 0
    draw: int = 0
    """Which of several answers to the same text."""
    top_p: float = 1.0
    """Of the likeliest tokens, those whose probabilities first sum up to this are drawn from."""


@dataclass(frozen=True)
class GenerationRequest:
    """One text to be written."""

    prompt: str
    """As the student reads it, prefix included."""
    max_new_tokens: int
    sampling: Sampling | None = None
    """None: greedy."""
    labels: LabelSet | None = None
    """The closed set of which a label is to be written; None: any text."""

    @property
    def watched(self) -> tuple[int, ...]:
        """The tokens whose scores at each step are needed besides those of the written ones."""
        return self.labels.watched if self.labels else ()


@dataclass(frozen=True)
class GenerationOutput:
    """The tokens of one order."""

    ids: tuple[int, ...]
    """The end-of-sequence token included, where it was written."""
    log_probs: tuple[float, ...]
    """Natural logarithm of each token's probability in the student's own distribution, (len(ids),)."""
    prompt_tokens: int
    finish_reason: Literal["stop", "length"]
    label_log_prob: float | None = None
    """Natural logarithm of the label's probability among those of the order's set (LabelSet.log_prob); None where it is none of them."""

    def text(self, tokenizer: Any) -> str:
        """What the tokens spell, without special tokens."""
        return str(tokenizer.decode(list(self.ids), skip_special_tokens=True))


@dataclass(frozen=True)
class Decoded:
    """One part of a student's answer."""

    text: str
    confidence: float
    """Product of the probabilities of the label's tokens, the end-of-sequence token included. Of a rationale, and of a text in which no
    `answer is` stands, of all tokens.

    Renormalised over a closed label set (closed.py). An answer that is no label of it as the student was trained to write it keeps the
    plain product: nothing of the set was written."""
    prompt_tokens: int
    output_tokens: int


def decoded(part: Part, written: GenerationOutput, tokenizer: Any) -> Decoded:
    """The part of an answer that some tokens are."""
    text = written.text(tokenizer)
    log_prob = written.label_log_prob
    if log_prob is None:
        first = _statement(written.ids, text, tokenizer) if part == "text" else 0
        log_prob = math.fsum(written.log_probs[first:])
    return Decoded(
        text=text.strip(),
        confidence=math.exp(log_prob),
        prompt_tokens=written.prompt_tokens,
        output_tokens=len(written.ids),
    )


def _statement(ids: Sequence[int], text: str, tokenizer: Any) -> int:
    """The token with which the statement of the label begins: after the last `answer is`; 0 where there is none."""
    at = text.rfind(STATEMENT)
    return 0 if at < 0 else tokens_within(ids, at + len(STATEMENT), tokenizer)
