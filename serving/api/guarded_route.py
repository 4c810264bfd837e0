"""Routes that need a key, if keys are configured."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request, Response, Security
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer

from serving.api.api_keys import KeyRing
from serving.api.request_body import JsonRequest
from serving.api.request_context import request_context


def guarded_router(keys: KeyRing) -> APIRouter:
    """A router for `/v1`. Its routes check the key before they read the body; FastAPI runs dependencies only after that."""

    class GuardedRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def checked(request: Request) -> Response:
                request_context(request).key = await keys.check(request.headers.get("authorization"))
                return await handle(JsonRequest(request.scope, request.receive))

            return checked

    # This dependency only documents the key.
    documented = [] if keys.open else [Security(HTTPBearer(scheme_name="key", auto_error=False))]
    return APIRouter(prefix="/v1", route_class=GuardedRoute, dependencies=documented, strict_content_type=False)
