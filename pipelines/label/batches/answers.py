"""The files of a batch. Requests: prompts -> lines. Answers: lines -> rows of labels/texts.

{"custom_id": "KEY in hex", "method": "POST", "url": "/v1/completions", "body": {...}}
{"custom_id": "KEY in hex", "response": {"status_code": 200, "body": {"choices": [...], "usage": {...}}}, "error": null}
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pyarrow as pa

from pipelines.data.schema import TEXT
from pipelines.label.stored.texts import StoredAnswer
from pipelines.label.teachers.base import Generation
from pipelines.label.teachers.openai_replies import generation_of, read_reply

_DETAIL_CHARACTERS = 300


class Answers:
    """What a batch has returned."""

    def __init__(self, n: int) -> None:
        """`n`: samples of each prompt."""
        self._n = n
        self.generations: dict[bytes, Generation] = {}
        self.failed: dict[bytes, str] = {}
        """Key -> what was wrong."""

    def read(self, lines: Iterable[str]) -> None:
        """Add the lines of a file. A line that cannot be read, or that has no key, is skipped: its request counts as not answered."""
        for line in lines:
            try:
                answer = json.loads(line, object_hook=lambda found: SimpleNamespace(**found))
                key = bytes.fromhex(answer.custom_id)
            except (ValueError, AttributeError, TypeError, RecursionError):
                continue
            found = self._generation(answer)
            if isinstance(found, Generation):
                self.generations[key] = found
                self.failed.pop(key, None)
            elif key not in self.generations:
                self.failed[key] = found[:_DETAIL_CHARACTERS]

    def table(self) -> pa.Table:
        """As rows of schema.TEXT. `id` is empty: rows with equal prompts share an answer."""
        rows = [
            {"id": "", "dtype": None, **StoredAnswer(key, found).entry()} for key, found in self.generations.items()
        ]
        return pa.Table.from_pylist(rows, schema=TEXT)

    def _generation(self, answer: Any) -> Generation | str:
        try:
            if answer.response is None or answer.response.status_code != 200:
                return _problem(answer)
            body = answer.response.body
            chat = hasattr(body.choices[0], "message") if body.choices else False
            reply = read_reply(body, chat=chat, prompt_tokens=0)
        except (AttributeError, TypeError, ValueError) as error:
            return f"an answer of another form ({error})"
        if isinstance(reply, str) or reply.problem:
            return reply if isinstance(reply, str) else reply.problem
        if len(reply.choices) < self._n:
            return f"{len(reply.choices)} choices instead of {self._n}"
        return generation_of([reply], self._n)


def _problem(answer: Any) -> str:
    for found in (getattr(answer, "error", None), getattr(getattr(answer.response, "body", None), "error", None)):
        if message := getattr(found, "message", None):
            return str(message)
    status = getattr(answer.response, "status_code", None)
    return "no response" if status is None else f"HTTP {status}"


def request_line(key: bytes, path: str, body: dict[str, Any]) -> bytes:
    """One line of a file of requests."""
    request = {"custom_id": key.hex(), "method": "POST", "url": path, "body": body}
    return json.dumps(request, ensure_ascii=False).encode() + b"\n"
