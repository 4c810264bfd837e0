"""The few-shot examples of the teacher's prompt: the task's own, or those of `teacher.shots`, JSON Lines of {question, answer}.

`question` is in the form in which the task asks it (multiple choice: with its `(a) ...` lines), `answer` in the task's answer format.
"""

from __future__ import annotations

import json
from collections.abc import Container

from pipelines.config import TeacherConfig
from pipelines.errors import BadRowError, UnparsableError, UserError
from pipelines.storage.filesystems import open_filesystem, shown
from pipelines.tasks import Example, Shot, Task
from pipelines.tasks.base import text_field

MAX_SHOTS = 100


def quoted_questions(config: TeacherConfig, task: Task) -> frozenset[str]:
    """The questions whose answers the teacher reads in its prompt. Raises UserError as `read_shots`."""
    shots = read_shots(config, task)
    return frozenset(shot.question for shot in (task.shots if shots is None else shots))


def is_quoted(example: Example, task: Task, quoted: Container[str]) -> bool:
    """True if the prompt has this example. `quoted`: from `quoted_questions`."""
    try:
        return task.question(example) in quoted
    except Exception:  # noqa: BLE001 - the task may be the user's code: labelling rejects such a row, with the reason
        return False


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
