"""Example -> prompt: the task's instruction, few-shot examples, the question. Independent of engines.

    Q: Anne has 4 apples and gives Peter 2 and Thomas 1. How many apples has she left?
    A: Anne starts with 4 apples. 4 - 2 - 1 = 1. The answer is (4 - 2 - 1).

    Q: ...
    A:

The few-shot examples are the task's own, or those of `teacher.shots`: JSON Lines of {question, answer}. `question` is in the form in which
the task asks it (multiple choice: with its `(a) ...` lines), `answer` in the task's answer format.

With a hint the last question ends in a line `(The answer is 4 - 2 - 1.)`. The few-shot questions have no hint, so that answers keep their
form. Another wording of the hint needs another identity.FORMAT.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from pipelines.config import TeacherConfig
from pipelines.errors import BadRowError, UnparsableError, UserError
from pipelines.label.teachers.base import Prompt
from pipelines.storage.filesystems import open_filesystem, shown
from pipelines.tasks import Example, Shot, Task
from pipelines.tasks.base import text_field

MAX_SHOTS = 100


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


def read_shots(config: TeacherConfig, task: Task) -> tuple[Shot, ...] | None:
    """The few-shot examples of `teacher.shots`, None if it is not set.

    Raises:
        UserError: the file is missing, empty or too long, or a line is no {question, answer} with an answer that the task can parse.
    """
    if config.shots is None:
        return None
    key = f"teacher.shots {shown(config.shots)}"
    filesystem, path = open_filesystem(config.shots)
    try:
        with filesystem.open_input_stream(path) as stream:
            lines = stream.read().split(b"\n")
    except FileNotFoundError as error:
        raise UserError(key, "there is no such file", "Give the JSON Lines file of {question, answer}.") from error
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not 1 <= len(numbered) <= MAX_SHOTS:
        rule = f"it holds {len(numbered)} examples, 1 to {MAX_SHOTS} are allowed"
        raise UserError(key, rule, "Give a file of {question, answer} lines.")
    return tuple(_shot(line, f"{key}, line {number}", task) for number, line in numbered)


def _shot(line: bytes, where: str, task: Task) -> Shot:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(where, "not JSON", "Repair or remove the line.") from error
    if not isinstance(record, dict) or set(record) != {"question", "answer"}:
        raise UserError(where, "not an object with `question` and `answer` alone", "Repair or remove the line.")
    try:
        shot = Shot(text_field(record, "question"), text_field(record, "answer"))
        task.parse(shot.answer, task.shot_example(shot.question))
    except BadRowError as error:
        raise UserError(where, str(error), "Repair or remove the line.") from error
    except UnparsableError as error:
        rule = f"task {task.name} cannot read its answer: {error}"
        raise UserError(where, rule, "End the answer with `The answer is ...`.") from error
    return shot
