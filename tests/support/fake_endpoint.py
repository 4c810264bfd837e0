"""A small server that acts as the endpoint, for the page. It answers from a table and records the questions."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from serving.page import CONTENT_SECURITY_POLICY, page


def model(
    name: str = "svamp", task: str = "arithmetic", fields: str | None = "input", **changed: Any
) -> dict[str, Any]:
    """A model of /v1/models. `fields`: names, with `*` for a list of texts and `?` for an optional one."""
    named = [
        {"name": one.strip("*?"), "required": "?" not in one, "list": "*" in one} for one in (fields or "").split()
    ]
    return {"id": name, "task": task, "method": "step-by-step", "rationale": True, "fields": named, **changed}


def predicted(label: str = "9 - 4", **more: Any) -> dict[str, Any]:
    prediction = {
        "label": label,
        "value": "5",
        "confidence": 0.9312,
        "rationale": "Anne gives away 4 of 9, so 9 - 4 are left.",
        **more,
    }
    usage = {"prompt_tokens": 61, "completion_tokens": 34, "total_tokens": 95}
    return {"model": "svamp", "predictions": [prediction], "usage": usage}


def problem(status: int, code: str, message: str, **headers: str) -> Response:
    error = {"message": message, "type": "test", "param": None, "code": code}
    return JSONResponse({"error": error}, status, {name.replace("_", "-"): value for name, value in headers.items()})


@dataclass
class FakeEndpoint:
    url: str = ""
    models: list[dict[str, Any]] = field(default_factory=lambda: [model()])
    answer: Any = None
    """A body or a response; None: predicted()."""
    listing: Response | None = None
    key: str | None = None
    delay_s: float = 0.0
    questions: list[dict[str, Any]] = field(default_factory=list)

    def app(self) -> Starlette:
        async def home(request: Request) -> Response:
            return HTMLResponse(page(), headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY})

        async def listed(request: Request) -> Response:
            return self._refusal(request) or self.listing or JSONResponse({"object": "list", "data": self.models})

        async def predict(request: Request) -> Response:
            refusal = self._refusal(request)
            if refusal:
                return refusal
            self.questions.append(await request.json())
            await asyncio.sleep(self.delay_s)
            answer = predicted() if self.answer is None else self.answer
            response = answer if isinstance(answer, Response) else JSONResponse(answer)
            response.headers["x-request-id"] = "req-77"
            return response

        return Starlette(routes=[
            Route("/", home), Route("/v1/models", listed), Route("/v1/predict", predict, methods=["POST"]),
        ])  # fmt: skip

    def _refusal(self, request: Request) -> Response | None:
        if self.key is None or request.headers.get("authorization") == f"Bearer {self.key}":
            return None
        return problem(401, "invalid_key", "no valid key", x_request_id="req-12")
