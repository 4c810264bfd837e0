"""A recorded teacher: JSON Lines of {id, output}, such as the answers of a closed model.

A line may also have `prompt_tokens` and `output_tokens`, by default 0, and `finish_reason`, by default `unknown`.
"""

from __future__ import annotations

import io
import json
from typing import Self

from pipelines.config import TeacherConfig
from pipelines.errors import UserError
from pipelines.label.teachers.base import Access, Generation, Prompt, PromptRefusedError, Sample, Teacher
from pipelines.storage.filesystems import open_filesystem, shown
from pipelines.tasks import Task


class ReplayTeacher(Teacher):
    """Answers each example with its recorded output. Holds the whole recording in memory."""

    answers_by = ("id",)

    def __init__(self, uri: str) -> None:
        self._recording = read_recording(uri)

    @classmethod
    def check(cls, config: TeacherConfig) -> None:
        read_recording(config.outputs or "")

    @classmethod
    def start(cls, config: TeacherConfig, task: Task, access: Access) -> Self:
        return cls(config.outputs or "")

    async def answer(self, prompt: Prompt) -> Generation:
        """The recorded answer. Raises PromptRefusedError if this id has no answer."""
        generation = self._recording.get(prompt.example.id)
        if generation is None:
            raise PromptRefusedError("unparsable", "the recording holds no output for this id")
        return generation


def read_recording(uri: str) -> dict[str, Generation]:
    """The answer per id. Of several lines with the same id, the first counts.

    Raises:
        UserError: the file is missing or empty, or a line is no object with text `id` and `output`.
    """
    filesystem, path = open_filesystem(uri)
    key = f"teacher.outputs {shown(uri)}"
    recording: dict[str, Generation] = {}
    try:
        with filesystem.open_input_stream(path) as stream:
            for number, line in enumerate(io.BufferedReader(stream), 1):
                if line.strip():
                    name, generation = _recorded(line, f"{key}, line {number}")
                    recording.setdefault(name, generation)
    except FileNotFoundError as error:
        raise UserError(key, "there is no such file", "Give the JSON Lines file of {id, output}.") from error
    if not recording:
        raise UserError(key, "it holds no outputs", "Give a file of {id, output} lines.")
    return recording


def _recorded(line: bytes, where: str) -> tuple[str, Generation]:
    try:
        record = json.loads(line)
        name, text = record["id"], record["output"]
        tokens, prompt_tokens = int(record.get("output_tokens", 0)), int(record.get("prompt_tokens", 0))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError(where, "not a JSON object with `id` and `output`", "Repair or remove the line.") from error
    if not (0 <= tokens < 2**31 and 0 <= prompt_tokens < 2**31):
        raise UserError(where, "a number of tokens is below 0 or too large", "Repair or remove it.")
    if not isinstance(name, str | int) or not isinstance(text, str):
        raise UserError(where, "`id` and `output` must be text", "Repair or remove the line.")
    sample = Sample(text, tokens, str(record.get("finish_reason", "unknown")))
    return str(name), Generation((sample,), prompt_tokens)
