"""Example -> prompt: the task's instruction, few-shot examples, the question. Independent of engines.

    Q: Anne has 4 apples and gives Peter 2 and Thomas 1. How many apples has she left?
    A: Anne starts with 4 apples. 4 - 2 - 1 = 1. The answer is (4 - 2 - 1).

    Q: ...
    A:

The few-shot examples are the task's own, or those of `teacher.shots` (pipelines/data/shots.py).

With a hint the last question ends in a line `(The answer is 4 - 2 - 1.)`. The few-shot questions have no hint, so that answers keep their
form. Another wording of the hint needs another identity.FORMAT.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from pipelines.config import TeacherConfig
from pipelines.data.shots import is_quoted
from pipelines.label.teachers.base import Prompt
from pipelines.tasks import Example, Shot, Task


@dataclass(frozen=True)
class PromptMaker:
    """Renders the prompts of a run. Their common beginning is rendered once."""

    task: Task
    config: TeacherConfig
    shots: Sequence[Shot] | None = None
    """From `read_shots`; None: the task's own."""

    @property
    def version(self) -> str:
        """Changes with everything that the teacher reads, except `teacher.system`."""
        return self.task.prompt_version(self._shots)

    def render(self, example: Example, *, hint: bool = False) -> Prompt:
        """The prompt for one example. `hint`: add its gold label, which it must have."""
        question = self.task.question(example)
        if hint:
            assert example.gold is not None
            question = f"{question}\n(The answer is {example.gold}.)"
        text = f"{self._head}Q: {question}\nA:"
        if self.config.prompt == "plain":
            return Prompt(example, text)
        return Prompt(example, text, (*self._turns, {"role": "user", "content": question}))

    def quotes(self, example: Example) -> bool:
        """True if the example is one of the few-shot examples of its prompt."""
        return is_quoted(example, self.task, self._quoted)

    @cached_property
    def _quoted(self) -> frozenset[str]:
        return frozenset(shot.question for shot in self._shots)

    @cached_property
    def _shots(self) -> tuple[Shot, ...]:
        return tuple(self.task.shots if self.shots is None else self.shots)

    @cached_property
    def _head(self) -> str:
        parts = [self.task.instruction] if self.task.instruction else []
        parts += [f"Q: {shot.question}\nA: {shot.answer}" for shot in self._shots]
        return "".join(f"{part}\n\n" for part in parts)

    @cached_property
    def _turns(self) -> tuple[dict[str, str], ...]:
        turns: list[dict[str, str]] = []
        system = "\n".join(part for part in (self.config.system, self.task.instruction) if part)
        if system:
            turns.append({"role": "system", "content": system})
        for shot in self._shots:
            turns.append({"role": "user", "content": shot.question})
            turns.append({"role": "assistant", "content": shot.answer})
        return tuple(turns)


def prompt_text(prompt: Prompt) -> str:
    """The prompt as a person reads it: its text, or its messages, each under its role, without the marks of a chat template."""
    if not prompt.messages:
        return prompt.text
    return "\n\n".join(f"[{message['role']}]\n{message['content']}" for message in prompt.messages)
