"""What travels between the ingress and a student: questions and replies, texts to be written and their pieces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipelines.students.decoding import Decoded, Sampling

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Question:
    """One input as the student reads it, without prefix."""

    text: str
    rationale: bool = False
    labels: tuple[str, ...] = ()
    """Its closed label set, as methods.written_labels gives it."""


@dataclass(frozen=True)
class Reply:
    """The student's answer to one question."""

    answer: Decoded
    """The label, or a text of rationale and label, by the method."""
    rationale: Decoded | None = None
    """Where it was asked for and is an answer of its own."""
    engine: str | None = None
    """Which one has answered."""


@dataclass(frozen=True)
class TextRequest:
    """A text to be written, in the words of OpenAI's API."""

    text: str
    raw: bool
    """Whether `text` is all that the student reads. Otherwise it is an input, which the student reads with the prefix of its answer."""
    max_tokens: int | None = None
    """None: as many as the endpoint gives an answer."""
    sampling: Sampling | None = None
    """None: greedy."""
    stop: tuple[str, ...] = ()
    """The text ends before the first of these."""


@dataclass(frozen=True)
class Piece:
    """Some more of a text that is being written. The last one has a finish reason."""

    text: str
    prompt_tokens: int
    output_tokens: int
    """Tokens written so far."""
    finish_reason: FinishReason | None = None
    engine: str | None = None
    """Of the last piece: which one has written it."""


class UnavailableError(Exception):
    """Nobody to answer for a student: its replica is of before or after a change, or its folder cannot be read. Names the student."""


@dataclass(frozen=True)
class TooLong:
    """Why a question was not answered."""

    tokens: int
    limit: int
