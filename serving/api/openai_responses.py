"""What OpenAI's completions and chat completions answer: whole texts, or the chunks of a stream.

    {"id": "cmpl-5f...", "object": "text_completion", "created": 1767225600, "model": "svamp",
     "choices": [{"index": 0, "text": "4 - 1", "logprobs": null, "finish_reason": "stop"}], "usage": {"prompt_tokens": 21, ...}}

A stream is server-sent events: `data: CHUNK`, one for each piece of the text, the usage where it is asked for, then `data: [DONE]`.
https://platform.openai.com/docs/api-reference
"""

from __future__ import annotations

import secrets
import time
from typing import Any, Literal

from pydantic import BaseModel

from serving.api.predict import Usage
from serving.messages import FinishReason, Piece
from serving.model_card import StudentCard


class _Choice(BaseModel):
    index: int
    logprobs: None = None
    finish_reason: FinishReason | None
    """Null in a chunk that is not the last of its text."""


class TextChoice(_Choice):
    """The text written for a prompt, or a piece of it."""

    text: str


class ChatMessage(BaseModel):
    """The student's answer."""

    role: Literal["assistant"]
    content: str


class ChatChoice(_Choice):
    """The answer to a chat."""

    message: ChatMessage


class Delta(BaseModel):
    """A piece of an answer."""

    role: Literal["assistant"] | None = None
    """Of the first piece."""
    content: str


class DeltaChoice(_Choice):
    """A piece of the answer to a chat."""

    delta: Delta


class _Reply(BaseModel):
    id: str
    created: int
    """Seconds since 1970."""
    model: str


class Completion(_Reply):
    """The answer of `POST /v1/completions`."""

    object: Literal["text_completion"]
    choices: list[TextChoice]
    """One for each prompt, in order."""
    usage: Usage


class CompletionChunk(_Reply):
    """One event of a stream of `POST /v1/completions`."""

    object: Literal["text_completion"]
    choices: list[TextChoice]
    """None in the chunk that has the usage."""
    usage: Usage | None = None
    """Of the whole text, in the last chunk where `stream_options.include_usage` asks for it."""


class ChatCompletion(_Reply):
    """The answer of `POST /v1/chat/completions`."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage


class ChatCompletionChunk(_Reply):
    """One event of a stream of `POST /v1/chat/completions`."""

    object: Literal["chat.completion.chunk"]
    choices: list[DeltaChoice]
    """None in the chunk that has the usage."""
    usage: Usage | None = None
    """As of `CompletionChunk`."""


class Shape:
    """Responses and chunks of one request in OpenAI's shape."""

    def __init__(self, card: StudentCard, *, chat: bool) -> None:
        self._chat = chat
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": card.id,
        }

    def whole(self, pieces: list[Piece]) -> dict[str, Any]:
        """The response of whole texts."""
        read, written = (sum(p.prompt_tokens for p in pieces), sum(p.output_tokens for p in pieces))
        kind = "chat.completion" if self._chat else "text_completion"
        reply: type[BaseModel] = ChatCompletion if self._chat else Completion
        choices = []
        for index, piece in enumerate(pieces):
            body = {"message": {"role": "assistant", "content": piece.text}} if self._chat else {"text": piece.text}
            choices.append({"index": index, **body, "logprobs": None, "finish_reason": piece.finish_reason})
        return _checked(reply, {**self._head, "object": kind, "choices": choices, "usage": _usage(read, written)})

    def chunk(self, piece: Piece, *, first: bool) -> dict[str, Any]:
        """One event of a stream."""
        body: dict[str, Any] = {"text": piece.text}
        if self._chat:
            body = {"delta": {**({"role": "assistant"} if first else {}), "content": piece.text}}
        choice = {"index": 0, **body, "logprobs": None, "finish_reason": piece.finish_reason}
        return self._chunk(choices=[choice])

    def usage(self, piece: Piece) -> dict[str, Any]:
        """The last event of a stream whose client asked for it."""
        return self._chunk(choices=[], usage=_usage(piece.prompt_tokens, piece.output_tokens))

    def _chunk(self, **parts: Any) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        reply: type[BaseModel] = ChatCompletionChunk if self._chat else CompletionChunk
        return _checked(reply, {**self._head, "object": kind, **parts})


def _checked(reply: type[BaseModel], body: dict[str, Any]) -> dict[str, Any]:
    """The body as its model has it, without what was left out."""
    return reply.model_validate(body).model_dump(exclude_unset=True)


def _usage(read: int, written: int) -> dict[str, int]:
    """Tokens, as OpenAI names them."""
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
