"""HTTP bodies -> requests of one of our models. Nothing else of a request is read."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from serving.api.errors import ApiError

Body = TypeVar("Body", bound=BaseModel)


async def read_body(request: Request, max_bytes: int, timeout_s: float) -> bytes:
    """The request's body. Raises ApiError 413 as soon as it is known to be too large, 408 where it does not arrive in time."""
    too_large = ApiError(413, "body_too_large", f"the body is larger than {max_bytes:,} bytes")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes:
                    raise too_large
    except TimeoutError as error:
        raise ApiError(408, "body_timeout", f"the body did not arrive within {timeout_s:g} s") from error
    except ClientDisconnect as error:
        raise ApiError(400, "client_away", "the client went away before its body had arrived") from error
    return bytes(body)


def parse_body(model: type[Body], body: bytes) -> Body:
    """The request of a body. Raises ApiError 400, which names the key and its rule."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        if problem["type"] == "json_invalid":
            raise ApiError(400, "invalid_json", f"the body is not JSON: {problem['ctx']['error']}") from error
        where = _param(problem["loc"])
        raise ApiError(400, "invalid_request", f"{where or 'the body'}: {problem['msg']}", param=where) from error


def _param(location: Sequence[int | str]) -> str | None:
    """`("inputs", 2, "str")` -> `inputs[2]`; the branches of a union are no part of the path."""
    if not location:
        return None
    index = f"[{location[1]}]" if len(location) > 1 and isinstance(location[1], int) else ""
    return f"{location[0]}{index}"
