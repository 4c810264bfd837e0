"""The protocol of teachers: a prompt goes in, n samples come out, one call per example, many calls at a time.

Kinds of failure. `PromptRefusedError`: this prompt cannot be answered, the row becomes a reject. `EngineDeadError`: no prompt can be
answered any more, the process that holds the teacher must end so that a fresh one takes its rows. `TeacherUnusableError`: a fresh one
would not help either, the stage fails. `BudgetExhaustedError`: nothing more may be asked, the stage stops and keeps what it has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipelines.tasks import Example


@dataclass(frozen=True)
class Prompt:
    """What the teacher is asked. Either `text` (the model continues it) or `messages` (its chat template renders them)."""

    example: Example
    text: str
    messages: tuple[dict[str, str], ...] = ()


@dataclass(frozen=True, eq=False)
class TokenLogprobs:
    """The teacher's distribution along one answer: T positions, the k likeliest tokens at each. Before temperature and top_p."""

    token_ids: npt.NDArray[np.int32]
    """(T,) what was sampled."""
    top_ids: npt.NDArray[np.int32]
    """(T, k), likeliest first."""
    top_logprobs: npt.NDArray[np.float16]
    """(T, k) natural logarithms; -inf for tokens that teacher.constrained forbids."""


@dataclass(frozen=True)
class Sample:
    """One answer. `finish_reason` is the engine's: `stop`, or `length` where the answer was cut; `unknown` in recordings."""

    text: str
    tokens: int
    finish_reason: str
    logprobs: TokenLogprobs | None = None
    """Where teacher.token_logprobs asks for it."""
    label_probabilities: tuple[tuple[str, float], ...] | None = None
    """(label, probability) over the closed label set at the place where this answer states its label, summing to 1; where
    teacher.soft_labels is logprobs and the answer has such a place."""


@dataclass(frozen=True)
class Generation:
    """The n answers to one prompt."""

    samples: tuple[Sample, ...]
    prompt_tokens: int


class PromptRefusedError(Exception):
    """This prompt cannot be answered. `reason` is one of schema.REJECT_REASONS."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class EngineDeadError(Exception):
    """The engine answers nothing any more."""


class TeacherUnusableError(Exception):
    """No prompt can be answered, and a fresh process would not help (a wrong key, an unknown model): the stage fails with this message."""


class BudgetExhaustedError(Exception):
    """The next request could use more than is left of `teacher.budget`: the stage stops. Rows in flight are still answered."""


class Teacher(Protocol):
    """An engine that answers prompts. Made inside the process that uses it."""

    async def answer(self, prompt: Prompt) -> Generation:
        """Answer one prompt. Raises PromptRefusedError, EngineDeadError, TeacherUnusableError or BudgetExhaustedError."""
