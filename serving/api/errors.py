"""Errors in the shape of OpenAI's API: {"error": {"message", "type", "param", "code"}}.

400: unreadable JSON, wrong type or unknown key; 401: no valid key; 404: no such model; 408: the body did not arrive in time; 413: too
many inputs or too large a body; 422: a task field missing or invalid, an input that is too long; 429: the key's limit; 503 with
Retry-After: the queue is full or the student is away; 504: no answer in time.
"""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from serving.api.request_context import notes_of

_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """An answer that is an error, with its HTTP status."""

    def __init__(
        self, status: int, code: str, message: str, *, param: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param = status, code, message, param
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, dict[str, str | None]]:
        """The error in OpenAI's shape."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The error as an HTTP response."""
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body(), self.status, headers)


def failed() -> ApiError:
    """What a client is told of a fault of ours: nothing of it."""
    return ApiError(500, "internal_error", "the server failed; its log says why")


def add_error_handlers(app: FastAPI) -> None:
    """Every error of the application in that shape."""

    @app.exception_handler(ApiError)
    async def known(request: Request, error: ApiError) -> JSONResponse:
        notes_of(request).code = error.code
        return error.response()

    @app.exception_handler(HTTPException)
    async def routing(request: Request, error: HTTPException) -> JSONResponse:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
        notes_of(request).code = code
        response = ApiError(error.status_code, code, f"{request.method} {request.url.path}: {error.detail}").response()
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def unknown(request: Request, error: Exception) -> JSONResponse:
        told = failed()
        notes_of(request).code = told.code
        return told.response()
