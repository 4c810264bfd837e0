"""ASGI middleware around the whole API: request ids, metrics, traces, access log.

A line of the access log:

    {"time": "2026-01-31T12:00:00.123Z", "request_id": "9f2c...", "method": "POST", "route": "/v1/predict", "status": 200, "seconds": 0.042,
     "model": "svamp", "key": "team-a", "inputs": 2, "prompt_tokens": 61, "output_tokens": 34, "code": null}

With serving.log_text it also has `asked` and `answered`, the texts of inputs and answers.
"""

from __future__ import annotations

import datetime
import json
import logging
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opentelemetry.trace import Tracer
from pydantic import JsonValue
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.api.request_context import RequestContext
from serving.tracing import NO_TRACER, end_request, request_span

if TYPE_CHECKING:
    from serving.metrics import IngressMetrics

ACCESS_LOG = "raystill.access"
REQUEST_ID = "x-request-id"
_MAX_LOGGED_ID = 200
"""Characters. Serve's proxy puts no limit on an id that a client chooses."""
_STATUS_DISCONNECTED = 499
"""nginx's status for a client that disconnects before the answer."""
_ROUTES = {"/", "/healthz", "/readyz", "/v1/predict", "/v1/completions", "/v1/chat/completions", "/v1/models"}
_PROBES = ("/healthz", "/readyz")
_logger = logging.getLogger(ACCESS_LOG)


@dataclass(frozen=True)
class RequestMiddleware:
    """Wraps an application."""

    app: ASGIApp
    metrics: IngressMetrics
    access_log: bool
    log_text: bool
    tracer: Tracer = NO_TRACER

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the module."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        context = RequestContext(_proxy_id(scope))
        context.attach(scope)
        started = time.perf_counter()
        status = _STATUS_DISCONNECTED

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        route = route_of(scope["path"])
        # Probes come every few seconds and would hide the requests.
        tracer = NO_TRACER if route in _PROBES else self.tracer
        with request_span(tracer, scope, route) as span:
            try:
                await self.app(scope, receive, observed_send)
            finally:
                self._record(scope, context, status, time.perf_counter() - started)
                end_request(span, context, status)

    def _record(self, scope: Scope, context: RequestContext, status: int, seconds: float) -> None:
        route = route_of(scope["path"])
        self.metrics.request(route, context.model, status, seconds, context.code)
        self.metrics.tokens(context.model, context.prompt_tokens, context.output_tokens)
        if self.access_log and route not in _PROBES:
            _logger.info(self._log_line(scope["method"], route, context, status, seconds))

    def _log_line(self, method: str, route: str, context: RequestContext, status: int, seconds: float) -> str:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line: dict[str, JsonValue] = {
            "time": now,
            "request_id": context.request_id,
            "method": method,
            "route": route,
            "status": status,
            "seconds": round(seconds, 4),
            "model": context.model or None,
            "key": context.key,
            "inputs": context.inputs,
            "prompt_tokens": context.prompt_tokens,
            "output_tokens": context.output_tokens,
            "code": context.code,
        }
        if self.log_text:
            line |= {"asked": [*context.input_texts], "answered": [*context.output_texts]}
        return json.dumps(line, ensure_ascii=True)


def route_of(path: str) -> str:
    """The route of a path. Paths that clients make up share one name, so that they create no metric series of their own."""
    if path.startswith("/v1/models/"):
        return "/v1/models/{name}"
    return path if path in _ROUTES else "other"


def _proxy_id(scope: Scope) -> str:
    """The id that Serve's proxy returns to the client, without what a log must not hold. The proxy passes on any id of the client."""
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    value = next((value for name, value in headers if name == REQUEST_ID.encode()), None)
    if value is None:
        return uuid.uuid4().hex
    return "".join(c for c in value.decode("utf-8", "replace") if c.isprintable())[:_MAX_LOGGED_ID]
