"""A text as server-sent events: `data: CHUNK` per piece, the usage if requested, then `data: [DONE]`.

A student that starts from zero writes nothing for seconds to minutes. Comments keep the connection alive meanwhile: proxies close silent
ones.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from serving.api.errors import ApiError, internal_error
from serving.api.openai_responses import ResponseBuilder, to_json
from serving.api.request_context import RequestContext
from serving.messages import Failed, Piece, TooLong

HEARTBEAT_S = 10.0
"""Proxies close connections on which nothing happens, some after 30 s. An error within this time has a status of its own."""
_logger = logging.getLogger(__name__)


class EventStream(StreamingResponse):
    """Closes its sources when it ends, however it ends.

    Starlette leaves that to the garbage collector; meanwhile the student would go on generating for a client that has disconnected.
    """

    def __init__(
        self,
        events: AsyncGenerator[str, None],
        source: AsyncGenerator[Any, None],
        begun: asyncio.Task[Piece],
        ended: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._events, self._source, self._begun, self._ended = events, source, begun, ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See StreamingResponse."""
        try:
            async with closed_after(self._source, self._begun), aclosing(self._events):
                await super().__call__(scope, receive, send)
        finally:
            await self._ended()


@asynccontextmanager
async def closed_after(source: AsyncGenerator[Any, None], begun: asyncio.Task[Piece]) -> AsyncIterator[None]:
    """Close a source after the block. `begun` may still wait for its first piece."""
    try:
        yield
    finally:
        begun.cancel()
        await asyncio.wait([begun])
        if not begun.cancelled():
            begun.exception()  # whoever needs it has seen it
        await source.aclose()


async def events(
    source: AsyncGenerator[Piece | TooLong | Failed, None], begun: asyncio.Task[Piece], builder: ResponseBuilder,
    context: RequestContext, *, with_usage: bool,
) -> AsyncGenerator[str, None]:  # fmt: skip
    """The events of a text. An error is an event, as the status is sent already.

    Args:
        begun: the first piece, which may take long.
    """
    last, texts = Piece("", 0, 0), list[str]()
    try:
        while not begun.done():
            await asyncio.wait([begun], timeout=HEARTBEAT_S)
            if not begun.done():
                yield ": waiting\n\n"
        last = begun.result()
        texts.append(last.text)
        yield _event(builder.chunk(last, first=True))
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
