"""The edge of the endpoint, in Serve's proxy: what strangers may send before any key is checked.

Serve calls `middlewares` if the environment variable RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH of the proxy's process is
`serving.edge:middlewares`. Raystill sets it for clusters that it starts, and in its Kubernetes manifests.

| limit | refusal |
| --- | --- |
| request line and headers above 32 KiB | 431 |
| chunk extensions and trailers above 32 KiB without a byte of the body | 431 |
| a request that is no HTTP | 400 |
| more than 100 requests that are sent before the answer to the first | closed |
| headers that take longer than 10 s to arrive, or a connection without a request for 10 s | closed |
| a body that still arrives 10 s after its request was refused | closed |
| a header that is not ASCII | 400 |

Errors of Serve itself, which are plain text, get OpenAI's shape. Headers that steer Serve are removed: model ids for multiplexing, which
the router keeps for ever, timeouts, and switches of Serve.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from http import HTTPStatus

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn import config as uvicorn_config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 32 << 10
HEAD_TIMEOUT_S = 10.0
_SLICE_BYTES = 4096
_MAX_PIPELINED = 100
_STEERING = {
    b"serve-multiplexed-model-id",
    b"x-request-timeout-seconds",
    b"x-request-disconnect-disabled",
    b"x-session-id",
}
_STEERING_PREFIX = b"x-serve-"
_TOO_LARGE = (431, "headers_too_large", f"The request line and the headers have more than {MAX_HEAD_BYTES} bytes.")
_NO_HTTP = (400, "invalid_http", "This is no valid HTTP/1.1 request.")
_NOT_ASCII = (400, "invalid_header", "Names and values of headers must be ASCII.")


def middlewares() -> list[Middleware]:
    """Limit the connections of this process' proxy, and return the middleware for it. Serve calls it before the proxy listens."""
    uvicorn_config.HTTP_PROTOCOLS["auto"] = f"{__name__}:LimitedProtocol"
    return [Middleware(EdgeMiddleware)]


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which by itself waits for headers of any size for ever."""

    _head_bytes = 0
    """Of the request that arrives; -1 while its body arrives or is answered."""
    _framing_bytes = 0
    """Received since the last byte of a body. uvicorn stops reading a body that nobody reads, but not what surrounds its chunks."""
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._head_arrived()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        # In slices: one read, of up to 256 KiB, would bring a head of any length as a whole, or 14,000 requests.
        for start in range(0, len(data), _SLICE_BYTES):
            self._take(data[start : start + _SLICE_BYTES])
            if self.transport.is_closing() or self.transport.get_protocol() is not self:
                return
            if len(self.pipeline) > _MAX_PIPELINED:
                self._close()
                return

    def _take(self, data: bytes) -> None:
        reads_head = self._head_bytes >= 0
        self._framing_bytes += len(data)
        super().data_received(data)
        if reads_head and self._head_bytes >= 0:
            self._head_bytes += len(data)
        too_large = self._head_bytes > MAX_HEAD_BYTES or (not reads_head and self._framing_bytes > MAX_HEAD_BYTES)
        if too_large and not self.transport.is_closing():
            self._end(*_TOO_LARGE)

    def send_400_response(self, msg: str) -> None:
        """See HttpToolsProtocol, which answers in plain text."""
        self._end(*_NO_HTTP)

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools. A trailer is no header."""
        if self._head_bytes >= 0:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """See httptools."""
        self._framing_bytes = 0
        super().on_body(body)

    def on_message_begin(self) -> None:
        """See httptools."""
        self._framing_bytes = 0
        super().on_message_begin()
        self._expect_head()

    def on_headers_complete(self) -> None:
        """See httptools."""
        self._head_arrived()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """See httptools."""
        super().on_message_complete()
        if self.cycle is not None and self.cycle.response_complete:
            self._expect_head()

    def on_response_complete(self) -> None:
        """See HttpToolsProtocol. What follows of the body of a refused request has as long as a head."""
        if self.cycle.more_body:
            self._set_deadline()
        super().on_response_complete()

    def _expect_head(self) -> None:
        self._head_arrived()
        self._head_bytes = 0
        self._set_deadline()

    def _set_deadline(self) -> None:
        self._deadline = self._deadline or self.loop.call_later(HEAD_TIMEOUT_S, self._close)

    def _head_arrived(self) -> None:
        self._head_bytes = -1
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _end(self, status: int, code: str, message: str) -> None:
        self.transport.write(_raw_response(status, code, message))
        self.transport.close()

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


class EdgeMiddleware:
    """Removes headers that steer Serve, and refuses those that it cannot read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] in ("http", "websocket"):
            headers: list[tuple[bytes, bytes]] = list(scope["headers"])
            if not all(name.isascii() and value.isascii() for name, value in headers):
                if scope["type"] == "websocket":
                    await send({"type": "websocket.close"})
                else:
                    await _refuse(send, *_NOT_ASCII)
                return
            scope = {**scope, "headers": [header for header in headers if not _steers(header[0])]}
            send = _shaping(send)
        await self._app(scope, receive, send)


_SERVE_ERRORS = {
    404: ("not_found", "no endpoint runs at this path, or it is ending"),
    408: ("timeout", "the request timed out"),
    503: ("overloaded", "the endpoint has no room for the request, or is starting. Send it again later"),
}
"""Status -> code and message."""
_SERVE_FAILURE = ("internal_error", "the server failed while it had the request. It is safe to send it again")


def _shaping(send: Send) -> Send:
    """Sends errors that are not JSON in OpenAI's shape. The API's own are JSON already."""
    shapes = False

    async def shaped(message: Message) -> None:
        nonlocal shapes
        if message["type"] == "http.response.start" and message["status"] >= 400:
            headers: list[tuple[bytes, bytes]] = list(message.get("headers", ()))
            shapes = not any(name.lower() == b"content-type" and b"json" in value for name, value in headers)
            if shapes:
                status = message["status"]
                kept = [header for header in headers if header[0].lower() not in (b"content-type", b"content-length")]
                await _refuse(send, status, *_SERVE_ERRORS.get(status, _SERVE_FAILURE), headers=kept)
        if not shapes:
            await send(message)

    return shaped


def _steers(name: bytes) -> bool:
    name = name.lower().replace(b"_", b"-")  # Serve takes both
    return name in _STEERING or name.startswith(_STEERING_PREFIX)


def _body(status: int, code: str, message: str) -> bytes:
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": message, "type": kind, "param": None, "code": code}
    return json.dumps({"error": error}).encode()


def _raw_response(status: int, code: str, message: str) -> bytes:
    body = _body(status, code, message)
    phrase = HTTPStatus(status).phrase
    head = f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    return head.encode() + body


async def _refuse(
    send: Send, status: int, code: str, message: str, headers: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    body = _body(status, code, message)
    own = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*own, *headers]})
    await send({"type": "http.response.body", "body": body})
