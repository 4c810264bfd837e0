"""ASGI middleware that answers only under the endpoint's own names.

A web page whose name changes to 127.0.0.1 (DNS rebinding) would otherwise reach an endpoint that only its own machine should reach.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from pipelines.config.serving import ServingConfig
from serving.api.errors import ApiError
from serving.api.request_context import request_context_of

_HEALTH = ("/healthz", "/readyz")
"""Probes use the address of a pod."""
_SHOWN_CHARACTERS = 100


def is_loopback(host: str) -> bool:
    """True for a name or an address of this machine that no other machine reaches."""
    with suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return host.lower() == "localhost"


def answered_hosts(serving: ServingConfig) -> frozenset[str] | None:
    """Names in `Host` headers that are answered, beside those of loopback addresses; None: all."""
    if "*" in serving.allowed_hosts or not (serving.allowed_hosts or is_loopback(serving.host)):
        return None
    return frozenset(host.lower() for host in (serving.host, *serving.allowed_hosts))


@dataclass(frozen=True)
class HostMiddleware:
    """Answers 421 under other names. A request without a name, as of HTTP/1.0, comes from no browser."""

    app: ASGIApp
    hosts: Collection[str]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the module."""
        if scope["type"] == "http" and scope["path"] not in _HEALTH:
            given = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), None)
            if given is not None and (name := _without_port(given)) not in self.hosts and not is_loopback(name):
                message = f"host {given[:_SHOWN_CHARACTERS]!r} is not one of serving.allowed_hosts"
                error = ApiError(421, "unknown_host", message)
                request_context_of(scope).code = error.code
                await JSONResponse(error.body().model_dump(), error.status_code)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _without_port(host: str) -> str:
    return host.partition("]")[0].strip("[") if host.startswith("[") else host.partition(":")[0].lower()
