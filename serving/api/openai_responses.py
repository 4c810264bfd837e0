"""Responses of OpenAI's completions and chat completions: whole texts, or the chunks of a stream.

    {"id": "cmpl-5f...", "object": "text_completion", "created": 1767225600, "model": "svamp",
     "choices": [{"index": 0, "text": "4 - 1", "logprobs": null, "finish_reason": "stop"}], "usage": {"prompt_tokens": 21, ...}}

A stream is server-sent events: `data: CHUNK` for each piece of the text, the usage if it is requested, then `data: [DONE]`.
https://platform.openai.com/docs/api-reference
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal

from pydantic import BaseModel

from serving.api.predict import Usage
from serving.messages import FinishReason, Piece
from serving.model_card import StudentCard


class _Choice(BaseModel):
    index: int
    finish_reason: FinishReason | None
    """Null in every chunk but the last of its text."""


class TextLogprobs(BaseModel):
    """The tokens of a text. Each list has one entry for each."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    """Null unless `logprobs` is 1."""
    text_offset: list[int]
    """Characters before the token."""


class TextChoice(_Choice):
    """The text for a prompt, or a piece of it."""

    text: str
    logprobs: TextLogprobs | None


class ChatMessage(BaseModel):
    """The student's answer."""

    role: Literal["assistant"]
    content: str
    refusal: None
    """As in OpenAI's API."""


class Likeliest(BaseModel):
    """A token with its log-probability."""

    token: str
    logprob: float
    bytes: list[int]
    """Of the token in UTF-8."""


class ChatToken(Likeliest):
    """A token of an answer."""

    top_logprobs: list[Likeliest]
    """Empty unless `top_logprobs` is 1."""


class ChatLogprobs(BaseModel):
    """The tokens of an answer."""

    content: list[ChatToken]
    refusal: None


class ChatChoice(_Choice):
    """The answer to a chat."""

    message: ChatMessage
    logprobs: ChatLogprobs | None


class Delta(BaseModel):
    """A piece of an answer."""

    role: Literal["assistant"] | None = None
    """In the first piece."""
    content: str


class DeltaChoice(_Choice):
    """A piece of the answer to a chat."""

    delta: Delta
    logprobs: None


class _Response(BaseModel):
    id: str
    created: int
    """Seconds since 1970."""
    model: str


class Completion(_Response):
    """The answer of `POST /v1/completions`."""

    object: Literal["text_completion"]
    choices: list[TextChoice]
    """One per prompt, in order."""
    usage: Usage


class CompletionChunk(_Response):
    """One event of a stream of `POST /v1/completions`."""

    object: Literal["text_completion"]
    choices: list[TextChoice]
    """Empty in the chunk with the usage."""
    usage: Usage | None = None
    """Of the whole text. In the last chunk, if `stream_options.include_usage` is true."""


class ChatCompletion(_Response):
    """The answer of `POST /v1/chat/completions`."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage


class ChatCompletionChunk(_Response):
    """One event of a stream of `POST /v1/chat/completions`."""

    object: Literal["chat.completion.chunk"]
    choices: list[DeltaChoice]
    """Empty in the chunk with the usage."""
    usage: Usage | None = None
    """As in `CompletionChunk`."""


class ResponseBuilder:
    """Builds the responses of one request. `to_json` leaves out what is not set."""

    def __init__(
        self, card: StudentCard, *, chat: bool, copies: int = 1, draws: int = 1, log_probs: bool = False,
        likeliest: bool = False,
    ) -> None:  # fmt: skip
        """
        Args:
            copies: texts for each prompt.
            draws: those of them that are generated. If fewer, each is all copies.
            log_probs: with tokens; `likeliest`: and with the likeliest one, which each is in a greedy text.
        """
        self._chat, self._draws, self._times = chat, draws, copies // draws
        self._log_probs, self._likeliest = log_probs, likeliest
        response_id = f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}"
        self._common: dict[str, Any] = {"id": response_id, "created": int(time.time()), "model": card.id}

    def whole(self, pieces: Sequence[Piece]) -> Completion | ChatCompletion:
        """The response with whole texts."""
        usage, each = _usage(pieces, self._draws), [piece for piece in pieces for _ in range(self._times)]
        if self._chat:
            answers = [self._chat_choice(piece, index) for index, piece in enumerate(each)]
            return ChatCompletion(**self._common, object="chat.completion", choices=answers, usage=usage)
        choices = [_text_choice(piece, index, self._text_logprobs(piece)) for index, piece in enumerate(each)]
        return Completion(**self._common, object="text_completion", choices=choices, usage=usage)

    def chunk(self, piece: Piece, *, first: bool) -> CompletionChunk | ChatCompletionChunk:
        """One event of a stream."""
        if self._chat:
            delta = Delta(role="assistant", content=piece.text) if first else Delta(content=piece.text)
            choice = DeltaChoice(index=0, logprobs=None, finish_reason=piece.finish_reason, delta=delta)
            return ChatCompletionChunk(**self._common, object="chat.completion.chunk", choices=[choice])
        return CompletionChunk(**self._common, object="text_completion", choices=[_text_choice(piece)])

    def usage_chunk(self, last: Piece) -> CompletionChunk | ChatCompletionChunk:
        """The event with the token counts of the whole text."""
        chunk = self.chunk(last, first=False)
        chunk.choices = []
        chunk.usage = _usage([last])
        return chunk

    def _text_logprobs(self, piece: Piece) -> TextLogprobs | None:
        if not self._log_probs:
            return None
        return TextLogprobs(
            tokens=[token.text for token in piece.tokens],
            token_logprobs=[token.log_prob for token in piece.tokens],
            top_logprobs=[{token.text: token.log_prob} for token in piece.tokens] if self._likeliest else None,
            text_offset=list(accumulate((len(token.text) for token in piece.tokens[:-1]), initial=0))[
                : len(piece.tokens)
            ],
        )

    def _chat_choice(self, piece: Piece, index: int) -> ChatChoice:
        message = ChatMessage(role="assistant", content=piece.text, refusal=None)
        log_probs = self._chat_logprobs(piece)
        return ChatChoice(index=index, logprobs=log_probs, finish_reason=piece.finish_reason, message=message)

    def _chat_logprobs(self, piece: Piece) -> ChatLogprobs | None:
        if not self._log_probs:
            return None
        tokens = [
            Likeliest(token=token.text, logprob=token.log_prob, bytes=list(token.text.encode()))
            for token in piece.tokens
        ]
        content = [ChatToken(**dict(token), top_logprobs=[token] if self._likeliest else []) for token in tokens]
        return ChatLogprobs(content=content, refusal=None)


def to_json(body: BaseModel) -> str:
    """The body as JSON, without fields that are not set."""
    return body.model_dump_json(exclude_unset=True)


def _text_choice(piece: Piece, index: int = 0, logprobs: TextLogprobs | None = None) -> TextChoice:
    return TextChoice(index=index, logprobs=logprobs, finish_reason=piece.finish_reason, text=piece.text)


def _usage(pieces: Sequence[Piece], draws: int = 1) -> Usage:
    """What was computed: a prompt counts once, whatever the number of its texts."""
    return Usage.of(sum(piece.prompt_tokens for piece in pieces[::draws]), sum(piece.output_tokens for piece in pieces))
