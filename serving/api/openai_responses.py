"""Responses of OpenAI's completions and chat completions: whole texts, or the chunks of a stream.

    {"id": "cmpl-5f...", "object": "text_completion", "created": 1767225600, "model": "svamp",
     "choices": [{"index": 0, "text": "4 - 1", "logprobs": null, "finish_reason": "stop"}], "usage": {"prompt_tokens": 21, ...}}

A stream is server-sent events: `data: CHUNK` for each piece of the text, the usage if it is requested, then `data: [DONE]`.
https://platform.openai.com/docs/api-reference
"""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from serving.api.predict import Usage
from serving.messages import FinishReason, Piece
from serving.model_card import StudentCard

_EXAMPLE_ID = f"cmpl-{'5f' * 12}"
_EXAMPLE_USAGE: dict[str, JsonValue] = {"prompt_tokens": 27, "completion_tokens": 6, "total_tokens": 33}


def _example(kind: str, choice: dict[str, JsonValue], **usage: JsonValue) -> ConfigDict:
    example: dict[str, JsonValue] = {
        "id": _EXAMPLE_ID if kind == "text_completion" else f"chat{_EXAMPLE_ID}",
        "object": kind,
        "created": 1767225600,
        "model": "svamp",
        "choices": [{"index": 0, "logprobs": None, "finish_reason": "stop", **choice}],
        **usage,
    }
    return ConfigDict(json_schema_extra={"examples": [example]})


class _Choice(BaseModel):
    index: int
    logprobs: None
    finish_reason: FinishReason | None
    """Null in every chunk but the last of its text."""


class TextChoice(_Choice):
    """The text for a prompt, or a piece of it."""

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
    """In the first piece."""
    content: str


class DeltaChoice(_Choice):
    """A piece of the answer to a chat."""

    delta: Delta


class _Response(BaseModel):
    id: str
    created: int
    """Seconds since 1970."""
    model: str


class Completion(_Response):
    """The answer of `POST /v1/completions`."""

    model_config = _example("text_completion", {"text": "4 - 2"}, usage=_EXAMPLE_USAGE)

    object: Literal["text_completion"]
    choices: list[TextChoice]
    """One per prompt, in order."""
    usage: Usage


class CompletionChunk(_Response):
    """One event of a stream of `POST /v1/completions`."""

    model_config = _example("text_completion", {"text": "4 - 2"})

    object: Literal["text_completion"]
    choices: list[TextChoice]
    """Empty in the chunk with the usage."""
    usage: Usage | None = None
    """Of the whole text. In the last chunk, if `stream_options.include_usage` is true."""


class ChatCompletion(_Response):
    """The answer of `POST /v1/chat/completions`."""

    model_config = _example(
        "chat.completion", {"message": {"role": "assistant", "content": "4 - 2"}}, usage=_EXAMPLE_USAGE
    )

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage


class ChatCompletionChunk(_Response):
    """One event of a stream of `POST /v1/chat/completions`."""

    model_config = _example("chat.completion.chunk", {"delta": {"role": "assistant", "content": "4 - 2"}})

    object: Literal["chat.completion.chunk"]
    choices: list[DeltaChoice]
    """Empty in the chunk with the usage."""
    usage: Usage | None = None
    """As in `CompletionChunk`."""


class ResponseBuilder(ABC):
    """Builds the responses of one request. `to_json` leaves out what is not set."""

    id_prefix: str

    def __init__(self, card: StudentCard) -> None:
        self._id = f"{self.id_prefix}-{secrets.token_hex(12)}"
        self._created = int(time.time())
        self._model = card.id

    @abstractmethod
    def whole(self, pieces: Sequence[Piece]) -> Completion | ChatCompletion:
        """The response with whole texts."""

    @abstractmethod
    def chunk(self, piece: Piece, *, first: bool) -> CompletionChunk | ChatCompletionChunk:
        """One event of a stream."""

    def usage_chunk(self, last: Piece) -> CompletionChunk | ChatCompletionChunk:
        """The event with the token counts of the whole text."""
        chunk = self.chunk(last, first=False)
        chunk.choices = []
        chunk.usage = _usage([last])
        return chunk


class CompletionBuilder(ResponseBuilder):
    """Responses of `POST /v1/completions`."""

    id_prefix = "cmpl"

    def whole(self, pieces: Sequence[Piece]) -> Completion:
        """See ResponseBuilder."""
        choices = [_text_choice(piece, index) for index, piece in enumerate(pieces)]
        return Completion(
            id=self._id, created=self._created, model=self._model, object="text_completion", choices=choices,
            usage=_usage(pieces),
        )  # fmt: skip

    def chunk(self, piece: Piece, *, first: bool) -> CompletionChunk:
        """See ResponseBuilder."""
        return CompletionChunk(
            id=self._id, created=self._created, model=self._model, object="text_completion", choices=[_text_choice(piece)]
        )  # fmt: skip


class ChatBuilder(ResponseBuilder):
    """Responses of `POST /v1/chat/completions`."""

    id_prefix = "chatcmpl"

    def whole(self, pieces: Sequence[Piece]) -> ChatCompletion:
        """See ResponseBuilder."""
        choices = [
            ChatChoice(
                index=index, logprobs=None, finish_reason=piece.finish_reason,
                message=ChatMessage(role="assistant", content=piece.text),
            )
            for index, piece in enumerate(pieces)
        ]  # fmt: skip
        return ChatCompletion(
            id=self._id, created=self._created, model=self._model, object="chat.completion", choices=choices,
            usage=_usage(pieces),
        )  # fmt: skip

    def chunk(self, piece: Piece, *, first: bool) -> ChatCompletionChunk:
        """See ResponseBuilder."""
        delta = Delta(role="assistant", content=piece.text) if first else Delta(content=piece.text)
        choice = DeltaChoice(index=0, logprobs=None, finish_reason=piece.finish_reason, delta=delta)
        return ChatCompletionChunk(
            id=self._id, created=self._created, model=self._model, object="chat.completion.chunk", choices=[choice]
        )  # fmt: skip


def to_json(body: BaseModel) -> str:
    """The body as JSON, without fields that are not set."""
    return body.model_dump_json(exclude_unset=True)


def _text_choice(piece: Piece, index: int = 0) -> TextChoice:
    return TextChoice(index=index, logprobs=None, finish_reason=piece.finish_reason, text=piece.text)


def _usage(pieces: Sequence[Piece]) -> Usage:
    return Usage.of(sum(piece.prompt_tokens for piece in pieces), sum(piece.output_tokens for piece in pieces))
