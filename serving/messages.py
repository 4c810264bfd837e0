"""Messages between the ingress and the replicas: questions and replies, text requests and their pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from pipelines.students.chat_prompt import Role
from pipelines.students.decoding import Decoded, Sampling

FinishReason = Literal["stop", "length"]
Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class Question:
    """One input as the student reads it, without prefix."""

    text: str
    rationale: bool = False
    labels: tuple[str, ...] = ()
    """Its closed label set, from methods.written_labels."""
    bulk: bool = False
    """True: others go first (fair_queue.py)."""

    @property
    def whole(self) -> str:
        """All that the student reads of it."""
        return self.text


@dataclass(frozen=True)
class Reply:
    """The student's answer to one question."""

    answer: Decoded
    """The label, or a text of rationale and label, depending on the method."""
    rationale: Decoded | None = None
    """Set if it is requested and is a text of its own."""
    engine: str | None = None
    """The engine that answered."""


@dataclass(frozen=True)
class TextRequest:
    """A text to generate, in the terms of OpenAI's API."""

    text: str
    raw: bool
    """True: `text` is the whole prompt. False: it is an input, which the student reads with the prefix of its answer."""
    max_tokens: int | None = None
    """None: the endpoint's default."""
    sampling: Sampling | None = None
    """None: greedy."""
    stop: tuple[str, ...] = ()
    """The text ends before the first of these."""
    bulk: bool = False
    """True: others go first (fair_queue.py)."""
    choices: tuple[str, ...] = ()
    """The text is one of these, if there are any. Greedy, and never streamed."""
    log_probs: bool = False
    """True: with its tokens. Never streamed."""
    turns: tuple[tuple[Role, str], ...] = ()
    """Of a conversation, before `text`, which is an input then; for students with a chat template."""

    @property
    def whole(self) -> str:
        """All that the student reads of it."""
        return "\0".join([text for _, text in self.turns] + [self.text]) if self.turns else self.text


@dataclass(frozen=True)
class TextToken:
    """A token of a text."""

    text: str
    """The texts of all tokens are the whole text. Empty while a character is incomplete."""
    log_prob: float
    """Natural logarithm."""


@dataclass(frozen=True)
class Piece:
    """The next part of a generated text. The last one has a finish reason."""

    text: str
    prompt_tokens: int
    output_tokens: int
    """Tokens generated so far."""
    finish_reason: FinishReason | None = None
    engine: str | None = None
    """The engine that answered; only in the last piece."""
    tokens: tuple[TextToken, ...] = ()
    """Of a whole text whose request has `log_probs`, without the end-of-sequence token."""


class UnavailableError(Exception):
    """The named student cannot answer now: its replica holds other students, or its folder cannot be read."""


@dataclass(frozen=True)
class TooLong:
    """The outcome of an input that is longer than the student reads, or whose choices are longer than it writes."""

    tokens: int
    limit: int
    written: bool = False
    """True: of the longest label or choice."""


@dataclass(frozen=True)
class Failed:
    """The outcome of an input that the engine cannot answer. Other inputs of its request are answered."""

    kills: bool = False
    """True: replicas died of it, and none gets it again."""
    refused: str | None = None
    """Why the student cannot read it."""


@dataclass(frozen=True)
class Batch(Generic[Outcome]):
    """A replica's reply to one call. A stream begins with an empty one."""

    outcomes: Sequence[Outcome | TooLong | Failed]
    """One per input, in order."""
    replica: str
    """Random id of the replica."""
    computed: int
    """Inputs that the replica computes at once."""
    continuous: bool = True
    """See Engine."""
