"""A teacher that was recorded: JSON Lines of {id, output}, for instance the answers of a closed model.

A line may also carry `prompt_tokens`, `output_tokens` and `finish_reason`; what it does not carry is 0 or `unknown`.
"""

from __future__ import annotations

import io
import json

from pipelines.errors import UserError
from pipelines.label.teachers.base import Generation, Prompt, PromptRefusedError, Sample
from pipelines.storage.filesystems import open_filesystem, shown


class ReplayTeacher:
    """Answers each example with its recorded output. The whole recording is held in memory."""

    def __init__(self, uri: str) -> None:
        self._outputs = read_recording(uri)

    async def answer(self, prompt: Prompt) -> Generation:
        """The recorded answer. Raises PromptRefusedError where the recording has none for this id."""
        recorded = self._outputs.get(prompt.example.id)
        if recorded is None:
            raise PromptRefusedError("unparsable", "the recording holds no output for this id")
        sample, prompt_tokens = recorded
        return Generation((sample,), prompt_tokens)


def read_recording(uri: str) -> dict[str, tuple[Sample, int]]:
    """id -> (sample, prompt tokens). The first of several lines with the same id counts.

    Raises:
        UserError: the file is missing or empty, or a line is not an object with text `id` and `output`.
    """
    filesystem, path = open_filesystem(uri)
    key = f"teacher.outputs {shown(uri)}"
    recording: dict[str, tuple[Sample, int]] = {}
    try:
        with filesystem.open_input_stream(path) as stream:
            for number, line in enumerate(io.BufferedReader(stream), 1):
                if line.strip():
                    name, sample, prompt_tokens = _recorded(line, f"{key}, line {number}")
                    recording.setdefault(name, (sample, prompt_tokens))
    except FileNotFoundError as error:
        raise UserError(key, "there is no such file", "Give the JSON Lines file of {id, output}.") from error
    if not recording:
        raise UserError(key, "it holds no outputs", "Give a file of {id, output} lines.")
    return recording


def _recorded(line: bytes, where: str) -> tuple[str, Sample, int]:
    try:
        record = json.loads(line)
        name, text = record["id"], record["output"]
        tokens, prompt_tokens = int(record.get("output_tokens", 0)), int(record.get("prompt_tokens", 0))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(where, "not a JSON object with `id` and `output`", "Mend or remove the line.") from error
    if not isinstance(name, str | int) or not isinstance(text, str):
        raise UserError(where, "`id` and `output` must be text", "Mend or remove the line.")
    return str(name), Sample(text, tokens, str(record.get("finish_reason", "unknown"))), prompt_tokens
