"""The OpenAPI document: bodies and answers with examples, and the errors that every route may give.

Bodies are read by us (bodies.py), within limits, and OpenAI's answers are written by us (replies.py), so that FastAPI does not know their
models by itself.
"""

from __future__ import annotations

import json
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from serving.api.models import Model, ModelList
from serving.api.openai_requests import ChatRequest, CompletionRequest
from serving.api.openai_responses import ChatCompletion, ChatCompletionChunk, Completion, CompletionChunk
from serving.api.predict import PredictRequest, PredictResponse

_REF = "#/components/schemas/{model}"
_Example = dict[str, Any]
_USAGE = {"prompt_tokens": 27, "completion_tokens": 6, "total_tokens": 33}
_MODEL: _Example = {
    "id": "svamp", "object": "model", "created": 1767225600, "owned_by": "raystill", "task": "arithmetic",
    "fields": [{"name": "input", "required": True, "list": False}], "method": "step-by-step", "rationale": True,
    "family": "encoder-decoder", "parameters": 247577856, "max_input_tokens": 1024, "engine": "ctranslate2", "weights": "float32",
    "fingerprint": "9f" * 32, "provenance": {"labels": {"teacher": {"engine": "vllm", "model": "Qwen/Qwen2.5-7B-Instruct"}}},
}  # fmt: skip


def _reply(kind: str, choice: _Example, **usage: _Example) -> _Example:
    """An example in OpenAI's shape."""
    head = {"id": f"{'chatcmpl' if 'chat' in kind else 'cmpl'}-{'5f' * 12}", "created": 1767225600, "model": "svamp"}
    return {**head, "object": kind, "choices": [{"index": 0, "logprobs": None, **choice}], **usage}


_ENDED = {"finish_reason": "stop"}
_EXAMPLES: dict[type[BaseModel], _Example] = {
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
    PredictResponse: {
        "model": "svamp",
        "predictions": [
            {"label": "4 - 2 - 1", "value": "1", "confidence": 0.93, "rationale": "Anne gives 2 and 1 away."}
        ],
        "usage": {"prompt_tokens": 61, "completion_tokens": 34, "total_tokens": 95},
    },
    Completion: _reply("text_completion", {"text": "4 - 2", **_ENDED}, usage=_USAGE),
    CompletionChunk: _reply("text_completion", {"text": "4 - 2", **_ENDED}),
    ChatCompletion: _reply(
        "chat.completion", {"message": {"role": "assistant", "content": "4 - 2"}, **_ENDED}, usage=_USAGE
    ),
    ChatCompletionChunk: _reply(
        "chat.completion.chunk", {"delta": {"role": "assistant", "content": "4 - 2"}, **_ENDED}
    ),
    Model: _MODEL,
    ModelList: {"object": "list", "data": [_MODEL]},
}
_OURS: dict[type[BaseModel], JsonSchemaMode] = {
    PredictRequest: "validation", CompletionRequest: "validation", ChatRequest: "validation", Completion: "serialization",
    CompletionChunk: "serialization", ChatCompletion: "serialization", ChatCompletionChunk: "serialization",
}  # fmt: skip
"""What FastAPI does not know by itself."""
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


def described(body: type[BaseModel], answer: type[BaseModel], chunk: type[BaseModel] | None = None) -> dict[str, Any]:
    """A route's arguments that describe its body, its answer and its errors.

    Args:
        chunk: the events of its stream, where it has one.
    """
    return {
        "openapi_extra": {"requestBody": {"content": {"application/json": _content(body)}, "required": True}},
        "responses": {**answered(answer, chunk), **errors(*_ERRORS)},
    }


def answered(answer: type[BaseModel], chunk: type[BaseModel] | None = None) -> dict[int | str, dict[str, Any]]:
    """The response of a route that is no error. Arguments as of `described`."""
    content: dict[str, _Example] = {"application/json": _content(answer)}
    if chunk is None:
        return {200: {"content": content}}
    payload = {"anyOf": [{"$ref": _REF.format(model=name)} for name in (chunk.__name__, "Error")]}
    data = [{"const": "[DONE]"}, {"contentMediaType": "application/json", "contentSchema": payload}]
    content["text/event-stream"] = {
        # Of each event: OpenAPI 3.1 has no other place for it.
        "schema": {"type": "object", "required": ["data"], "properties": {"data": {"type": "string", "anyOf": data}}},
        "example": f"data: {json.dumps(_EXAMPLES[chunk])}\n\ndata: [DONE]\n\n",
    }
    return {200: {"description": "The whole answer, or server-sent events where `stream` is true.", "content": content}}


def _content(model: type[BaseModel]) -> dict[str, Any]:
    return {"schema": {"$ref": _REF.format(model=model.__name__)}, "example": _EXAMPLES[model]}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The responses of a route that are errors."""
    content = {"application/json": {"schema": {"$ref": _REF.format(model="Error")}}}
    return {status: {"description": _ERRORS[status], "content": content} for status in statuses}


def add_document(app: FastAPI, *, locked: bool) -> None:
    """The schemas of bodies and answers among the components of `/openapi.json`, and which routes need a key.

    Args:
        locked: whether `/v1/*` needs a key. Otherwise one may be given.
    """
    made = app.openapi
    security: list[dict[str, list[str]]] = [{"key": []}] if locked else [{}, {"key": []}]

    def openapi() -> dict[str, Any]:
        document = made()
        _, definitions = models_json_schema(list(_OURS.items()), ref_template=_REF)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas |= {"Error": _ERROR, **definitions.get("$defs", {})}
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, operations in document["paths"].items():
            if path.startswith("/v1/"):
                for operation in operations.values():
                    operation["security"] = security
        return document

    app.openapi = openapi  # type: ignore[method-assign]
