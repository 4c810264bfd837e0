"""The protocol of teachers: a prompt in, n samples out. One call per example, many calls at a time.

A new teacher is a subclass of `Teacher` and an entry in registry.py. Its errors decide what happens next:

    PromptRefusedError      this prompt cannot be answered             the row becomes a reject
    EngineDeadError         this process can answer no more prompts    its actor ends, a fresh one takes over its rows
    TeacherUnusableError    no process could answer                    the stage fails
    BudgetExhaustedError    the next request could pass the budget     the stage stops and keeps what it has
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from pydantic import SecretStr

from pipelines.config import TeacherConfig
from pipelines.storage.fingerprint_cache import weights_fingerprint
from pipelines.tasks import Example, Task
from pipelines.tasks.base import is_unicode

if TYPE_CHECKING:
    from pipelines.label.teachers.budget import BudgetMeter


@dataclass(frozen=True)
class Prompt:
    """A prompt as text, which the model continues, or as chat messages, which its chat template renders."""

    example: Example
    text: str
    messages: tuple[dict[str, str], ...] = ()
    """Each with `role` and `content`. If there are any, the model gets these and not `text`."""


@dataclass(frozen=True, eq=False)
class TokenLogprobs:
    """The teacher's distributions along one answer of T tokens: the k likeliest tokens, before temperature and top_p."""

    token_ids: npt.NDArray[np.int32]
    """(T,) the sampled tokens."""
    top_ids: npt.NDArray[np.int32]
    """(T, k), likeliest first."""
    top_logprobs: npt.NDArray[np.float16]
    """(T, k) natural logarithms; -inf for tokens that teacher.constrained forbids."""


@dataclass(frozen=True)
class Sample:
    """One answer."""

    text: str
    tokens: int
    finish_reason: str
    """The engine's: `stop`, `length` if the answer was cut, ...; `unknown` if the engine does not say."""
    logprobs: TokenLogprobs | None = None
    """With teacher.token_logprobs."""
    label_probabilities: tuple[tuple[str, float], ...] | None = None
    """(label, probability) over the closed label set where this answer states its label, summing to 1. None without
    teacher.soft_labels `logprobs`, or if the answer states no label."""
    thoughts: str = ""
    """What a reasoning model thought before it answered (answers/thoughts.py). `text` is without it."""
    thoughts_end: bool = True
    """False if the thoughts do not end: then `text` is no answer."""
    raw: str = ""
    """The text with its thoughts, if they were cut from it."""
    opened: bool = False
    """True if the prompt ends within a thought."""

    def __post_init__(self) -> None:
        # JSON can spell half of a character, as endpoints do that cut texts by UTF-16 units. No file can hold it.
        for name in ("text", "finish_reason", "thoughts", "raw"):
            value = getattr(self, name)
            if not is_unicode(value):
                whole = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
                object.__setattr__(self, name, whole)


@dataclass(frozen=True)
class Generation:
    """The n answers to one prompt."""

    samples: tuple[Sample, ...]
    prompt_tokens: int
    cached_tokens: int = 0
    """Part of `prompt_tokens`: those that an endpoint had in its cache."""

    @property
    def output_tokens(self) -> int:
        """Of all samples."""
        return sum(sample.tokens for sample in self.samples)


class PromptRefusedError(Exception):
    """This prompt cannot be answered."""

    def __init__(self, reason: str, detail: str) -> None:
        """`reason`: one of schema.REJECT_REASONS."""
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class EngineDeadError(Exception):
    """The engine in this process answers no more prompts."""


class TeacherUnusableError(Exception):
    """No prompt can be answered, and a fresh process would not help: a wrong key, an unknown model."""


class BudgetExhaustedError(Exception):
    """The next request could use more than is left of `teacher.budget`. Requests in flight still get their answers."""


@dataclass(frozen=True)
class Load:
    """How many rows keep one engine busy."""

    batch_rows: int
    """Rows that the engine answers at the same time."""
    rows_in_engine: int
    """Rows that it is given at most: the batch and a short queue."""

    @classmethod
    def of_batch(cls, config: TeacherConfig) -> Self:
        """Of an engine that batches `vllm.max_num_seqs` samples, with a queue of a quarter of that."""
        rows = max(config.vllm.max_num_seqs // config.sampling.n, 1)
        return cls(rows, rows + -(-rows // 4))


class TokensUsed(NamedTuple):
    """Tokens that were charged."""

    prompt: int = 0
    output: int = 0
    cached: int = 0
    """Part of `prompt`: those that an endpoint had in its cache."""


NOTHING_USED = TokensUsed()


@dataclass(frozen=True)
class Access:
    """What the driver passes to every engine process."""

    key: SecretStr | None = None
    """From `Teacher.key`. An argument, because Ray writes an actor's environment variables to its logs."""
    used: TokensUsed = NOTHING_USED
    """What earlier runs used of the budget."""


def row_seed(seed: int, row_id: str, start: int = 0) -> int:
    """Seed of one row's draws: rows with the same seed would share them. `start`: index of the first sample."""
    digest = hashlib.blake2b(f"{seed}\0{row_id}\0{start}".encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 33  # 31 bits, which every engine takes


def stop_strings(config: TeacherConfig, task: Task) -> list[str]:
    """`sampling.stop`, else the task's for plain prompts. Empty for chat."""
    if config.sampling.stop is not None:
        return list(config.sampling.stop)
    return list(task.stops) if config.prompt == "plain" else []


class Teacher(ABC):
    """An engine that answers prompts. The class methods answer the driver, before any engine starts."""

    meters_budget: ClassVar[bool] = False
    """True if the teacher keeps `teacher.budget` itself, in `meter`. Otherwise engines/shared_budget.py does."""
    meter: BudgetMeter
    """Of a teacher whose requests are paid."""
    answers_by: ClassVar[tuple[str, ...]] = ()
    """Fields of the example that an answer depends on beside the prompt."""

    @classmethod
    def check(cls, config: TeacherConfig) -> None:
        """Raise UserError if the settings cannot work. Called before Ray starts; must not load heavy libraries."""
        return

    @classmethod
    def notice(cls, config: TeacherConfig) -> str | None:
        """What the user should know of settings that work. Must not load heavy libraries."""
        return None

    @classmethod
    def model_identity(cls, config: TeacherConfig) -> str | None:
        """What identifies the model in the labels' fingerprint: by default the content of its files."""
        return weights_fingerprint(config.model) if config.model else config.model

    @classmethod
    def revision(cls, config: TeacherConfig) -> str | None:
        """The commit of the model's weights. None if the model is no hub id, or nobody knows it."""
        return None

    @classmethod
    def load(cls, config: TeacherConfig) -> Load | None:
        """The load of one engine, None if it answers at once."""
        return None

    @classmethod
    def key(cls, config: TeacherConfig) -> SecretStr | None:
        """The credential that engines need, read from the driver's environment."""
        return None

    @classmethod
    def dtype(cls, config: TeacherConfig) -> str | None:
        """The dtype that an engine on this machine computes in. None if it has no dtype to report."""
        return None

    @classmethod
    def try_prompt(cls, config: TeacherConfig, prompt: Prompt) -> None:
        """Raise TeacherUnusableError if no prompt of this form can be answered. Called before `start`; loads no weights."""
        return

    @classmethod
    def preload(cls) -> None:
        """Import what `start` needs, in another thread while the corpus is read. An error comes again from `start`."""
        return

    @classmethod
    @abstractmethod
    def start(cls, config: TeacherConfig, task: Task, access: Access) -> Self:
        """Start an engine in this process. Any error means that it does not start."""

    @abstractmethod
    async def answer(self, prompt: Prompt) -> Generation:
        """Answer one prompt with n samples. Raises one of the four errors of this module."""
