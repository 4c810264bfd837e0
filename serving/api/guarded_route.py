"""Routes that need a key, if keys are configured."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request, Response, Security
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer

from serving.api.api_keys import KeyRing
from serving.api.errors import ApiError
from serving.api.request_body import JsonRequest
from serving.api.request_context import request_context

_JSON = "application/json"
_SHOWN_CHARACTERS = 100


def guarded_router(keys: KeyRing) -> APIRouter:
    """A router for `/v1`. Its routes check the key before they read the body; FastAPI runs dependencies only after that."""

    class GuardedRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def checked(request: Request) -> Response:
                request_context(request).key = await keys.check(request.headers.get("authorization"))
                _check_content(request)
                return await handle(JsonRequest(request.scope, request.receive))

            return checked

    # This dependency only documents the key.
    documented = [] if keys.open else [Security(HTTPBearer(scheme_name="key", auto_error=False))]
    return APIRouter(prefix="/v1", route_class=GuardedRoute, dependencies=documented, strict_content_type=False)


def _check_content(request: Request) -> None:
    """Raises ApiError 415 if the body is declared as something else than plain JSON. Without a declaration it is read as JSON."""
    if request.method != "POST":
        return
    media = request.headers.get("content-type", _JSON).partition(";")[0].strip().lower()
    if media != _JSON and not (media.startswith("application/") and media.endswith("+json")):
        message = (
            f"the body is declared as {media[:_SHOWN_CHARACTERS]!r}. Send JSON with the header `Content-Type: {_JSON}`"
        )
        raise ApiError(415, "unsupported_media_type", message)
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        message = f"the body is encoded as {encoding[:_SHOWN_CHARACTERS]!r}. Send it without Content-Encoding"
        raise ApiError(415, "unsupported_encoding", message)
