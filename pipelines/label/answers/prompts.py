"""Example -> prompt: the task's instruction, few-shot examples, the question. Nothing here knows an engine.

Q: Anne has 4 apples and gives Peter 2 and Thomas 1. How many apples has she left?
A: Anne starts with 4 apples. 4 - 2 - 1 = 1. The answer is (4 - 2 - 1).

Q: ...
A:

The few-shot examples are the task's own, or those of `teacher.shots`: JSON Lines of {question, answer}, where question is what the task
would ask (multiple choice: with its `(a) ...` lines) and answer is in the task's own format.

With a hint the last question ends in a line `(The answer is 4 - 2 - 1.)`: rationalisation, for which the teacher has only to say why.
The other questions have none, so that the answer keeps their form. A change of the hint's wording is a change of stage.FORMAT.
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
    """Renders the prompts of a run. What all of them begin with is rendered once."""

    task: Task
    config: TeacherConfig
    shots: Sequence[Shot] | None = None
    """From `read_shots`; None: the task's own."""

    @property
    def version(self) -> str:
        """Changes when anything that the teacher reads changes, apart from `teacher.system`."""
        return self.task.prompt_version(self._shown)

    def render(self, example: Example, *, hint: bool = False) -> Prompt:
        """The prompt for one example, as text and, for chat, as messages. `hint`: with the example's gold label, which it must have."""
        question = self.task.question(example)
        if hint:
            assert example.gold is not None
            question = f"{question}\n(The answer is {example.gold}.)"
        text = f"{self._head}Q: {question}\nA:"
        if self.config.prompt == "plain":
            return Prompt(example, text)
        return Prompt(example, text, (*self._turns, {"role": "user", "content": question}))

    @cached_property
    def _shown(self) -> tuple[Shot, ...]:
        return tuple(self.task.shots if self.shots is None else self.shots)

    @cached_property
    def _head(self) -> str:
        parts = [self.task.instruction] if self.task.instruction else []
        parts += [f"Q: {shot.question}\nA: {shot.answer}" for shot in self._shown]
        return "".join(f"{part}\n\n" for part in parts)

    @cached_property
    def _turns(self) -> tuple[dict[str, str], ...]:
        turns: list[dict[str, str]] = []
        system = "\n".join(part for part in (self.config.system, self.task.instruction) if part)
        if system:
            turns.append({"role": "system", "content": system})
        for shot in self._shown:
            turns.append({"role": "user", "content": shot.question})
            turns.append({"role": "assistant", "content": shot.answer})
        return tuple(turns)


def prompt_text(prompt: Prompt) -> str:
    """The prompt for people: its text, or its messages, each under its role (the model's chat template adds marks of its own)."""
    if not prompt.messages:
        return prompt.text
    return "\n\n".join(f"[{message['role']}]\n{message['content']}" for message in prompt.messages)


def read_shots(config: TeacherConfig, task: Task) -> tuple[Shot, ...] | None:
    """The few-shot examples of `teacher.shots`, None where it names no file.

    Raises:
        UserError: the file is missing, empty or too long, or a line is no {question, answer} whose answer the task can parse.
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
        raise UserError(where, "not JSON", "Mend or remove the line.") from error
    if not isinstance(record, dict) or set(record) != {"question", "answer"}:
        raise UserError(where, "not an object with `question` and `answer`, no others", "Mend or remove the line.")
    try:
        shot = Shot(text_field(record, "question"), text_field(record, "answer"))
        task.parse(shot.answer, task.shot_example(shot.question))
    except BadRowError as error:
        raise UserError(where, str(error), "Mend or remove the line.") from error
    except UnparsableError as error:
        rule = f"task {task.name} cannot read its answer: {error}"
        raise UserError(where, rule, "End the answer with `The answer is ...`.") from error
    return shot
