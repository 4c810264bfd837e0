"""The OpenAPI document: request bodies with examples, and the errors that every route may give.

Bodies are read by us (bodies.py), within limits, so that FastAPI does not know their models by itself.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serving.api.openai import ChatRequest, CompletionRequest
from serving.api.predict import PredictRequest

_REF = "#/components/schemas/{model}"
_EXAMPLES: dict[type[BaseModel], dict[str, Any]] = {
    PredictRequest: {
        "inputs": [{"input": "Anne has 4 apples and gives Peter 2 and Thomas 1. How many apples has she left?"}],
        "rationale": True,
    },
    CompletionRequest: {
        "prompt": "[label] Anne has 4 apples and gives Peter 2. How many has she left?",
        "max_tokens": 32,
    },
    ChatRequest: {
        "messages": [{"role": "user", "content": "Anne has 4 apples and gives Peter 2. How many has she left?"}],
        "stream": False,
    },
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_ERRORS = {
    400: "Unreadable JSON, a wrong type or an unknown key.",
    401: "No valid key.",
    404: "There is no such model.",
    408: "The body did not arrive in time.",
    413: "Too many inputs, or too large a body.",
    422: "A field is missing or invalid, or an input is too long.",
    429: "The key's limit is reached.",
    503: "The queue is full or the student is away; see Retry-After.",
    504: "No answer in time.",
}


def described(body: type[BaseModel]) -> dict[str, Any]:
    """A route's arguments that describe its body and its errors."""
    content = {"schema": {"$ref": _REF.format(model=body.__name__)}, "example": _EXAMPLES[body]}
    return {
        "openapi_extra": {"requestBody": {"content": {"application/json": content}, "required": True}},
        "responses": errors(*_ERRORS),
    }


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The responses of a route that are errors."""
    content = {"application/json": {"schema": {"$ref": _REF.format(model="Error")}}}
    return {status: {"description": _ERRORS[status], "content": content} for status in statuses}


def add_document(app: FastAPI, *, locked: bool) -> None:
    """The bodies' schemas among the components of `/openapi.json`, and which routes need a key.

    Args:
        locked: whether `/v1/*` needs a key. Otherwise one may be given.
    """
    made = app.openapi
    security: list[dict[str, list[str]]] = [{"key": []}] if locked else [{}, {"key": []}]

    def openapi() -> dict[str, Any]:
        document = made()
        _, definitions = models_json_schema([(body, "validation") for body in _EXAMPLES], ref_template=_REF)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas |= {"Error": _ERROR, **definitions.get("$defs", {})}
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, operations in document["paths"].items():
            if path.startswith("/v1/"):
                for operation in operations.values():
                    operation["security"] = security
        return document

    app.openapi = openapi  # type: ignore[method-assign]
