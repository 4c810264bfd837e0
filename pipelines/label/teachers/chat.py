"""Chat messages -> the text that a model reads, by its tokenizer's chat template.

Some templates have no system turn (Gemma's raises, others drop it without a word). The system text then stands before the first question,
in the same user turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Message = dict[str, str]
"""`role` and `content`."""


class TemplateError(ValueError):
    """The chat template cannot render these messages."""


class ChatTemplate:
    """The chat template of a tokenizer. Learns from the first prompt whether it has a system turn."""

    def __init__(self, tokenizer: Any, options: dict[str, Any] | None = None) -> None:
        """`options`: `teacher.chat_template_kwargs`."""
        self._tokenizer, self._options = tokenizer, options or {}
        self.folds: bool | None = None
        """True if the system text goes into the user turn. None before the first prompt with one."""

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt, up to where the model answers. Raises TemplateError."""
        system = messages[0]["content"] if messages and messages[0]["role"] == "system" else ""
        if not system:
            return self._apply(messages)
        if self.folds is None:
            self.folds = not self._has_system_turn(messages, system)
        return self._apply(folded(messages) if self.folds else messages)

    def _has_system_turn(self, messages: Sequence[Message], system: str) -> bool:
        try:
            return system.strip() in self._apply(messages)
        except TemplateError:
            return False

    def _apply(self, messages: Sequence[Message]) -> str:
        try:
            text = self._tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=True, tokenize=False, **self._options
            )
        except Exception as error:
            raise TemplateError(f"{type(error).__name__}: {error}") from error
        return str(text)


def folded(messages: Sequence[Message]) -> list[Message]:
    """The messages with the system text at the beginning of the first user turn."""
    if not messages or messages[0]["role"] != "system":
        return list(messages)
    system, *rest = messages
    at = next(i for i, message in enumerate(rest) if message["role"] == "user")
    joined = {"role": "user", "content": f"{system['content']}\n\n{rest[at]['content']}"}
    return [*rest[:at], joined, *rest[at + 1 :]]
