"""ASGI middleware that limits the size of a body and the time in which it must arrive."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.api.errors import ApiError

_MAX_DIGITS = 18
"""Of a Content-Length. A longer number exceeds every limit, and int() refuses very long ones."""


@dataclass(frozen=True)
class BodyLimitMiddleware:
    """Raises ApiError in `receive`: 413 for a large body, 408 for a slow one, 400 if the client disconnects first."""

    app: ASGIApp
    max_bytes: int
    timeout_s: float

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the module."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        deadline = asyncio.get_running_loop().time() + self.timeout_s
        size, complete = 0, False

        async def limited() -> Message:
            nonlocal size, complete
            if complete:  # later messages only report a disconnect
                return await receive()
            if self._declares_too_much(scope):
                raise self._too_large()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError as error:
                rule = f"the body did not arrive within {self.timeout_s:g} s"
                raise ApiError(408, "body_timeout", rule) from error
            if message["type"] == "http.disconnect":
                raise ApiError(400, "client_away", "the client disconnected before its body was complete")
            size += len(message.get("body", b""))
            if size > self.max_bytes:
                raise self._too_large()
            complete = not message.get("more_body", False)
            return message

        await self.app(scope, limited, send)

    def _declares_too_much(self, scope: Scope) -> bool:
        declared: bytes = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
        return declared.isdigit() and (len(declared) > _MAX_DIGITS or int(declared) > self.max_bytes)

    def _too_large(self) -> ApiError:
        return ApiError(413, "body_too_large", f"the body is larger than {self.max_bytes:,} bytes")
