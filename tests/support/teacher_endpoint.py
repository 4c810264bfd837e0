"""An OpenAI-compatible endpoint on 127.0.0.1, with real sockets, that can be made to misbehave. FastAPI under uvicorn, in a thread."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from pipelines.label.teachers import http_errors
from tests.support.asgi import served
from tests.support.batch_endpoint import BatchState, add_batches

KEY = "sk-test-7f3a9c51e2"


@dataclass
class Seen:
    """A request, as the endpoint received it."""

    path: str
    body: dict[str, Any]
    at_s: float
    """On time.monotonic."""
    status: int = 0
    """0: not answered."""

    @property
    def question(self) -> str:
        return str(self.body.get("prompt") or self.body["messages"][-1]["content"])


Behaviour = Callable[[Seen, "Endpoint"], Response | None]


@dataclass
class Endpoint:
    """The endpoint's state. `behaviour` gets each request first; if it returns None, the normal answer follows.

    Answers take `latency_s`, errors do not.
    """

    url: str = ""
    behaviour: Behaviour = lambda seen, endpoint: None
    latency_s: float = 0.0
    choices_at_most: int = 256
    """Choices per answer, like endpoints that ignore `n`."""
    finish_reason: str = "stop"
    batch: BatchState = field(default_factory=BatchState)
    seen: list[Seen] = field(default_factory=list)
    working: int = 0
    """Requests in work."""
    most_working: int = 0
    disconnected: int = 0

    def statuses(self) -> list[int]:
        return [seen.status for seen in self.seen]


def error(
    status: int, message: str, code: str | None = None, headers: dict[str, str] | None = None, **more: Any
) -> Response:
    body = {"error": {"message": message, "type": "error", "param": None, "code": code, **more}}
    return JSONResponse(body, status, headers)


_JSON = "application/json"
TRANSIENT = {
    **{str(status): lambda status=status: error(status, "not now") for status in (408, 409, 500, 502, 503, 529)},
    "truncated": lambda: Response('{"choices": [{"text": "4 - 2', media_type=_JSON),
    # Promises more than it sends: the connection ends in the middle of the answer.
    "broken off": lambda: Response('{"choices": [', media_type=_JSON, headers={"content-length": "5000"}),
    "empty": lambda: JSONResponse({"choices": [], "error": "upstream failed"}),
    "no choices": lambda: JSONResponse({"id": "x"}),
    "null choices": lambda: JSONResponse({"choices": None}),
    "odd choices": lambda: JSONResponse({"choices": "none"}),
    "null choice": lambda: JSONResponse({"choices": [None]}),
    "a list": lambda: JSONResponse([]),
    "not JSON": lambda: Response("<html>a proxy's page</html>", media_type="text/html"),
}
"""Failures that a later request may not meet."""


def normal_answer(seen: Seen, endpoint: Endpoint) -> Response:
    count = min(int(seen.body.get("n", 1)), endpoint.choices_at_most)
    chat = "messages" in seen.body
    choices: list[dict[str, Any]] = []
    for index in range(count):
        text = f"answer {index} with seed {seen.body.get('seed')} to {seen.question}"
        content = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        choices.append({"index": index, "finish_reason": endpoint.finish_reason, **content})
    body: dict[str, Any] = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": choices}
    body["usage"] = {"prompt_tokens": 20, "completion_tokens": 10 * count, "total_tokens": 20 + 10 * count}
    return JSONResponse(body)


def saying(text: str) -> Behaviour:
    """Every answer is `text`, for 20 tokens of prompt and 10 of output."""

    def answer(seen: Seen, endpoint: Endpoint) -> Response:
        usage = {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}
        choice = {"index": 0, "finish_reason": "stop", "text": text}
        body = {"id": "x", "object": "text_completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
        return JSONResponse(body)

    return answer


def _app(endpoint: Endpoint) -> FastAPI:
    app = FastAPI()

    @app.post("/v1/completions")
    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> Response:
        seen = Seen(request.url.path, await request.json(), time.monotonic())
        endpoint.seen.append(seen)
        if (given := request.headers.get("authorization")) != f"Bearer {KEY}":
            response: Response | None = error(401, f"Incorrect API key: {given}", "invalid_api_key")
        else:
            response = endpoint.behaviour(seen, endpoint)
        if response is None or response.status_code == 200:
            endpoint.working += 1
            endpoint.most_working = max(endpoint.most_working, endpoint.working)
            try:
                await _work(request, endpoint)
            finally:
                endpoint.working -= 1
            response = response or normal_answer(seen, endpoint)
        seen.status = response.status_code
        return response

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        is_right = request.headers.get("authorization") == f"Bearer {KEY}"
        return JSONResponse({"data": []}) if is_right else error(401, "Incorrect API key")

    add_batches(app, endpoint.batch, lambda path, body: _batched(endpoint, path, body))
    return app


def _batched(endpoint: Endpoint, path: str, body: dict[str, Any]) -> Response:
    """The answer to a request of a batch. It is not among those that were seen."""
    seen = Seen(path, body, time.monotonic())
    return endpoint.behaviour(seen, endpoint) or normal_answer(seen, endpoint)


async def _work(request: Request, endpoint: Endpoint) -> None:
    end = time.monotonic() + endpoint.latency_s
    while (left := end - time.monotonic()) > 0:
        if endpoint.latency_s > 1 and await request.is_disconnected():
            endpoint.disconnected += 1
            return
        await asyncio.sleep(min(left, 0.02))


@contextmanager
def running_endpoint() -> Iterator[Endpoint]:
    """A fresh endpoint while the block runs."""
    endpoint = Endpoint()
    with served(_app(endpoint)) as url:
        endpoint.url = f"{url}/v1"
        yield endpoint


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """An endpoint for teachers that wait only briefly between attempts."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(http_errors, "FIRST_WAIT_S", 0.02)
    monkeypatch.setattr(http_errors, "MAX_WAIT_S", 0.2)
    with running_endpoint() as running:
        yield running
