"""What FastAPI cannot derive for the OpenAPI document: errors by status, and streams."""

from __future__ import annotations

from typing import Any

from serving.api.errors import ErrorResponse

Responses = dict[int | str, dict[str, Any]]
"""FastAPI's argument `responses`: status -> description, model and content."""
_ERRORS = {
    400: "Unreadable JSON, a wrong type or an unknown key.",
    401: "No valid key.",
    404: "Unknown model.",
    408: "The body did not arrive in time.",
    413: "Too many inputs, or too large a body.",
    415: "Another content type than JSON, or a compressed body.",
    422: "A field is missing or invalid, or an input is too long.",
    429: "The key's limit is reached.",
    503: "The queue is full or the student is unavailable; see Retry-After.",
    504: "No answer in time.",
}


def error_responses(*statuses: int) -> Responses:
    """The errors of a route; without arguments all of them."""
    return {status: {"description": _ERRORS[status], "model": ErrorResponse} for status in statuses or _ERRORS}


def stream_responses() -> Responses:
    """The responses of a route with streams: its events beside FastAPI's own JSON response, and all errors."""
    description = "The whole answer, or server-sent events if `stream` is true."
    return {200: {"description": description, "content": {"text/event-stream": {}}}, **error_responses()}
