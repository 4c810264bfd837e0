"""ASGI middleware around the whole API: request ids, metrics, access log.

A line of the access log:

    {"time": "2026-01-31T12:00:00.123Z", "request_id": "9f2c...", "method": "POST", "route": "/v1/predict", "status": 200, "seconds": 0.042,
     "model": "svamp", "key": "team-a", "inputs": 2, "prompt_tokens": 61, "output_tokens": 34, "code": null}

`asked` and `answered` are there with serving.log_text only.
"""

from __future__ import annotations

import datetime
import json
import logging
import re
import time
import uuid
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.api.request_context import RequestContext

ACCESS_LOG = "raystill.access"
REQUEST_ID = "x-request-id"
_ID_PATTERN = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_ID_CHARACTERS = 200
"""Of an id that somebody else has chosen and answers with."""
_ROUTES = {"/", "/healthz", "/readyz", "/v1/predict", "/v1/completions", "/v1/chat/completions", "/v1/models"}
_logger = logging.getLogger(ACCESS_LOG)


class Metrics(Protocol):
    """Where numbers of requests go."""

    def request(self, route: str, model: str, status: int, seconds: float, code: str | None) -> None:
        """One answered request."""
        ...

    def tokens(self, model: str, read: int, written: int) -> None:
        """Tokens of one answer."""
        ...

    def first_token(self, model: str, seconds: float) -> None:
        """A stream's first piece."""
        ...


@dataclass(frozen=True)
class RequestMiddleware:
    """Around an application."""

    app: ASGIApp
    metrics: Metrics
    access_log: bool
    log_text: bool
    names_requests: bool
    """Whether ids are made and answered here; else by what stands before."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the module."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        notes = RequestContext(_request_id(scope) if self.names_requests else _given_id(scope))
        notes.put(scope)
        began = time.perf_counter()
        status = 499  # as nginx says it: the client went away before there was an answer

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self.names_requests:
                    headers = [(REQUEST_ID.encode(), notes.request_id.encode()), *message.get("headers", [])]
                    message = {**message, "headers": headers}
            await send(message)

        try:
            await self.app(scope, receive, sending)
        finally:
            self._note(scope, notes, status, time.perf_counter() - began)

    def _note(self, scope: Scope, notes: RequestContext, status: int, seconds: float) -> None:
        route = route_of(scope["path"])
        self.metrics.request(route, notes.model, status, seconds, notes.code)
        self.metrics.tokens(notes.model, notes.prompt_tokens, notes.output_tokens)
        if self.access_log and route not in ("/healthz", "/readyz"):
            _logger.info(json.dumps(self._line(scope, notes, route, status, seconds), ensure_ascii=True))

    def _line(self, scope: Scope, notes: RequestContext, route: str, status: int, seconds: float) -> dict[str, Any]:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        text = {"asked": notes.asked, "answered": notes.answered} if self.log_text else {}
        return {
            "time": now,
            "request_id": notes.request_id,
            "method": scope["method"],
            "route": route,
            "status": status,
            "seconds": round(seconds, 4),
            "model": notes.model or None,
            "key": notes.key,
            "inputs": notes.inputs,
            "prompt_tokens": notes.prompt_tokens,
            "output_tokens": notes.output_tokens,
            "code": notes.code,
            **text,
        }


def route_of(path: str) -> str:
    """The route of a path: paths that clients make up would be series of their own without end."""
    if path.startswith("/v1/models/"):
        return "/v1/models/{name}"
    return path if path in _ROUTES else "other"


def _request_id(scope: Scope) -> str:
    """The client's own id where it is a harmless one, else a new one."""
    for name, value in scope["headers"]:
        if name == REQUEST_ID.encode() and _ID_PATTERN.fullmatch(value):
            return str(value.decode())
    return uuid.uuid4().hex


def _given_id(scope: Scope) -> str:
    """The id that the client is answered, whatever it holds, as far as a log may hold it: Serve's proxy answers with what the client has
    sent, or makes one."""
    for name, value in scope["headers"]:
        if name == REQUEST_ID.encode():
            return "".join(c for c in value.decode("utf-8", "replace") if c.isprintable())[:_ID_CHARACTERS]
    return uuid.uuid4().hex
