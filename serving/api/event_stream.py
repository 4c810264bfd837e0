"""A text as server-sent events: `data: CHUNK` per piece, the usage if requested, then `data: [DONE]`."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from serving.api.errors import ApiError, internal_error
from serving.api.openai_responses import ResponseBuilder, to_json
from serving.api.request_context import RequestContext
from serving.messages import Failed, Piece, TooLong

_logger = logging.getLogger(__name__)


class EventStream(StreamingResponse):
    """Closes its sources when it ends, however it ends.

    Starlette leaves that to the garbage collector; meanwhile the student would go on generating for a client that has disconnected.
    """

    def __init__(
        self,
        events: AsyncGenerator[str, None],
        source: AsyncGenerator[Any, None],
        ended: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._events, self._source, self._ended = events, source, ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See StreamingResponse."""
        try:
            async with aclosing(self._source), aclosing(self._events):
                await super().__call__(scope, receive, send)
        finally:
            await self._ended()


async def events(
    source: AsyncGenerator[Piece | TooLong | Failed, None], first: Piece, builder: ResponseBuilder, context: RequestContext, *,
    with_usage: bool,
) -> AsyncGenerator[str, None]:  # fmt: skip
    """The events of a text whose first piece is known. An error after the first piece is an event, as the status is sent already."""
    last, texts = first, [first.text]
    try:
        yield _event(builder.chunk(first, first=True))
        async for piece in source:
            if isinstance(piece, Piece):
                last = piece
                texts.append(piece.text)
                yield _event(builder.chunk(piece, first=False))
        if with_usage:
            yield _event(builder.usage_chunk(last))
        yield "data: [DONE]\n\n"
    except ApiError as error:
        context.code = error.code
        yield _event(error.body())
    except Exception:  # if the connection just closed, the client could take that for the end of the text
        _logger.exception("a stream of model %s failed (request %s)", context.model, context.request_id)
        failure = internal_error()
        context.code = failure.code
        yield _event(failure.body())
    finally:
        context.prompt_tokens, context.output_tokens = last.prompt_tokens, last.output_tokens
        context.output_texts.append("".join(texts))


def _event(body: BaseModel) -> str:
    return f"data: {to_json(body)}\n\n"
