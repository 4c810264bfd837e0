"""What FastAPI cannot derive for the OpenAPI document: errors by status, and the events of streams."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serving.api.errors import ErrorResponse
from serving.api.openai_responses import ChatCompletionChunk, CompletionChunk

Responses = dict[int | str, dict[str, Any]]
"""FastAPI's argument `responses`: status -> description, model and content."""
_REF = "#/components/schemas/{model}"
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


def stream_responses(chunk: type[BaseModel]) -> Responses:
    """The responses of a route with streams: its events beside FastAPI's own JSON response, and all errors."""
    payload = {"anyOf": [{"$ref": _REF.format(model=model.__name__)} for model in (chunk, ErrorResponse)]}
    data = [{"const": "[DONE]"}, {"contentMediaType": "application/json", "contentSchema": payload}]
    # The schema describes one event: OpenAPI 3.1 has no other place for it.
    event = {"type": "object", "required": ["data"], "properties": {"data": {"type": "string", "anyOf": data}}}
    description = "The whole answer, or server-sent events if `stream` is true."
    return {200: {"description": description, "content": {"text/event-stream": {"schema": event}}}, **error_responses()}


def add_chunk_schemas(app: FastAPI) -> None:
    """Add the schemas of stream events to `/openapi.json`: FastAPI collects only models of JSON responses."""
    build = app.openapi

    def openapi() -> dict[str, Any]:
        document = build()
        _, chunks = models_json_schema(
            [(CompletionChunk, "serialization"), (ChatCompletionChunk, "serialization")], ref_template=_REF
        )
        document["components"]["schemas"] |= chunks["$defs"]
        return document

    app.openapi = openapi  # type: ignore[method-assign]
