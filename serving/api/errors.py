"""Errors in the shape of OpenAI's API: {"error": {"message", "type", "param", "code"}}.

| status | cause |
| --- | --- |
| 400 | unreadable JSON, a wrong type, an unknown key |
| 401 | no valid key |
| 404 | unknown model or path |
| 408 | the body did not arrive in time |
| 413 | too many inputs, or too large a body |
| 415 | another content type than JSON, or a compressed body |
| 421 | a host that is not one of serving.allowed_hosts |
| 422 | a task field is missing or invalid, or an input is too long or refused |
| 429 | the key's limit is reached |
| 503 | the queue is full or the student is unavailable; with Retry-After |
| 504 | no answer in time |
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from serving.api.request_context import request_context
from serving.messages import Failed, TooLong

_JITTER_S = 5
_SHOWN_CHARACTERS = 200
_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    """The part of the request that is at fault."""
    code: str | None


class ErrorResponse(BaseModel):
    """The body of every error."""

    error: ErrorDetail


class ApiError(HTTPException):
    """An error with its HTTP status, code and headers."""

    def __init__(
        self, status: int, code: str, message: str, *, param: str | None = None, retry_after_s: int | None = None
    ) -> None:
        headers = {}
        if retry_after_s is not None:
            # Clients that were refused together shall not come back together.
            headers["Retry-After"] = str(retry_after_s + random.randint(0, min(retry_after_s, _JITTER_S)))
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        super().__init__(status, message, headers)
        self.code, self.message, self.param = code, message, param
        self.retry_after_s = retry_after_s

    def body(self) -> ErrorResponse:
        """The error in OpenAI's shape."""
        kind = _TYPES.get(self.status_code, "invalid_request_error" if self.status_code < 500 else "server_error")
        return ErrorResponse(error=ErrorDetail(message=self.message, type=kind, param=self.param, code=self.code))


def internal_error() -> ApiError:
    """The error that a client gets for a fault of the server. It shows no detail."""
    return ApiError(500, "internal_error", "the server failed; its log has the reason")


def failed_input(outcome: TooLong | Failed, param: str, model: str) -> ApiError:
    """The error of an input that was not answered. `param`: the input, such as `inputs[2]`."""
    if isinstance(outcome, TooLong):
        what = "a choice of " if outcome.written else ""
        verb = "writes" if outcome.written else "reads"
        message = f"{param} has {what}{outcome.tokens:,} tokens, model {model} {verb} at most {outcome.limit:,}"
        return ApiError(422, "input_too_long", message, param=param)
    if outcome.refused:
        message = f"model {model} does not read these messages: {outcome.refused}. Send one user message"
        return ApiError(400, "unsupported_messages", message, param="messages")
    if outcome.kills:
        message = f"{param} is refused: replicas of model {model} died of it. Send the other inputs without it"
        return ApiError(422, "input_refused", message, param=param)
    return ApiError(500, "internal_error", f"{param} failed; the log of model {model} has the reason", param=param)


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error of the application in OpenAI's shape."""

    def respond(request: Request, error: ApiError) -> JSONResponse:
        request_context(request).code = error.code
        return JSONResponse(error.body().model_dump(), error.status_code, error.headers)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        if isinstance(error, ApiError):
            return respond(request, error)
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
        place = f"{request.method} {request.url.path[:_SHOWN_CHARACTERS]}"
        response = respond(request, ApiError(error.status_code, code, f"{place}: {error.detail}"))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(RequestValidationError)
    async def invalid_body(request: Request, error: RequestValidationError) -> JSONResponse:
        return respond(request, _invalid_request(error))

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        return respond(request, internal_error())


def _invalid_request(error: RequestValidationError) -> ApiError:
    """The first problem of a body. It names the key and the rule."""
    problems = error.errors()
    # Of a list that may be a text too, the problem is in the list.
    texts = [problem for problem in problems if problem["type"] == "string_type" and isinstance(problem["input"], list)]
    problem = next((problem for problem in problems if problem not in texts), problems[0])
    location = problem["loc"][1:]  # without "body"
    if location:
        param = _param(location)
        unknown = f"unknown key `{location[-1]}`. Remove it" if problem["type"] == "extra_forbidden" else ""
        return ApiError(
            400, "invalid_request", f"{param}: {unknown[:_SHOWN_CHARACTERS] or problem['msg']}", param=param
        )
    if error.body is None:
        return ApiError(400, "invalid_json", "the body is empty or null. Send a JSON object")
    return ApiError(400, "invalid_request", "the body must be a JSON object")


def _param(location: Sequence[int | str]) -> str:
    """`("inputs", 2, "str")` -> `inputs[2]`. pydantic adds the branch of a union, which is no part of the path."""
    index = f"[{location[1]}]" if len(location) > 1 and isinstance(location[1], int) else ""
    return f"{location[0]}{index}"
