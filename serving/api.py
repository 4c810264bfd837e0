"""What the endpoint speaks over HTTP: requests, responses, errors. Knows students by their cards; asks by a function.

    POST /v1/predict {"inputs": [{"input": "Anne has 4 apples ..."}], "rationale": true}
      -> {"model": "svamp",
          "predictions": [{"label": "4 - 2 - 1", "value": "1", "confidence": 0.93, "rationale": "Anne has ..."}],
          "usage": {"prompt_tokens": 61, "completion_tokens": 34, "total_tokens": 95}}

Errors have the shape of OpenAI's API: {"error": {"message", "type", "param", "code"}}. 400: unreadable JSON, wrong
type or unknown key; 404: no such model; 413: too many inputs or too large a body; 422: a task field missing or invalid,
an input that is too long; 503 with Retry-After: the queue is full or the student is away; 504: no answer in time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from starlette.exceptions import HTTPException

from pipelines.errors import BadRowError
from pipelines.methods import read_answer
from pipelines.tasks.base import Example, Task, text_field
from pipelines.tasks.registry import load_task
from serving.students import Question, Reply, StudentCard, TooLong

Ask = Callable[[str, Sequence[Question]], Awaitable[Sequence[Reply | TooLong]]]
"""(model name, questions) -> one outcome per question, in order. Raises ApiError where there is none."""


class PredictRequest(BaseModel):
    """What a client asks."""

    model_config = ConfigDict(extra="forbid", strict=True)

    inputs: Annotated[list[dict[str, JsonValue] | str], Field(min_length=1)]
    """Each one the task's fields by name, or the text as the student reads it."""
    rationale: bool = False
    """Whether the student writes its rationales too; a second answer per input."""
    model: str | None = None
    """A name of /v1/models; may be left out where there is one student."""


class Prediction(BaseModel):
    """The answer to one input."""

    label: str
    value: str | None = None
    """What the label comes to, where that says more than the label (arithmetic: the number)."""
    confidence: float
    """Product of the probabilities of the label's tokens, end-of-sequence token included."""
    rationale: str | None = None


class Usage(BaseModel):
    """Tokens read and written for the request, without padding."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class PredictResponse(BaseModel):
    """The answers, in the order of the inputs."""

    model: str
    predictions: list[Prediction]
    usage: Usage


@dataclass(frozen=True)
class Limits:
    """What one request may hold."""

    max_inputs: int
    max_body_bytes: int


class ApiError(Exception):
    """An answer that is an error, with its HTTP status."""

    def __init__(
        self, status: int, code: str, message: str, *, param: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param = status, code, message, param
        self.retry_after_s = retry_after_s

    def response(self) -> JSONResponse:
        """The error in OpenAI's shape."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        body = {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        return JSONResponse(body, self.status, headers)


def create_app(cards: Sequence[StudentCard], ask: Ask, limits: Limits) -> FastAPI:
    """The HTTP application for these students. Raises UserError where a student's task cannot be loaded."""
    app = FastAPI(title="Raystill", description="Students that answer.", docs_url=None, redoc_url=None)
    students = {card.name: (card, load_task(card.task)) for card in cards}
    schema = {"content": {"application/json": {"schema": PredictRequest.model_json_schema()}}, "required": True}

    @app.post("/v1/predict", response_model_exclude_none=True, openapi_extra={"requestBody": schema})
    async def predict(request: Request) -> PredictResponse:
        """Label, confidence and, when asked for, rationale of each input."""
        body = parse_request(await read_body(request, limits.max_body_bytes))
        card, task = choose_student(students, body.model)
        questions, examples = read_inputs(body, card, task, limits.max_inputs)
        return respond(card, task, examples, await ask(card.name, questions), rationale=body.rationale)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The students, with what each was made from."""
        return {"object": "list", "data": [describe(card) for card in cards]}

    @app.get("/v1/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        """One student, with what it was made from."""
        return describe(choose_student(students, name)[0])

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Answers while the endpoint takes requests; students may be scaled to zero meanwhile."""
        return {"status": "ok"}

    _add_error_handlers(app)
    return app


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The request's body. Raises ApiError 413 as soon as it is known to be too large."""
    too_large = ApiError(413, "body_too_large", f"the body is larger than {max_bytes:,} bytes")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise too_large
    return bytes(body)


def parse_request(body: bytes) -> PredictRequest:
    """The request of a body. Raises ApiError 400, which names the key and its rule."""
    try:
        return PredictRequest.model_validate_json(body)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        if problem["type"] == "json_invalid":
            raise ApiError(400, "invalid_json", f"the body is not JSON: {problem['ctx']['error']}") from error
        where = _param(problem["loc"])
        raise ApiError(400, "invalid_request", f"{where or 'the body'}: {problem['msg']}", param=where) from error


def choose_student(students: Mapping[str, tuple[StudentCard, Task]], name: str | None) -> tuple[StudentCard, Task]:
    """The student of that name, or the only one. Raises ApiError 404, or 400 where a name is needed."""
    names = ", ".join(students)
    if name is None:
        if len(students) > 1:
            raise ApiError(400, "model_required", f"name one of the models: {names}", param="model")
        return next(iter(students.values()))
    if name not in students:
        raise ApiError(404, "model_not_found", f"there is no model of that name; there are: {names}", param="model")
    return students[name]


def read_inputs(
    body: PredictRequest, card: StudentCard, task: Task, max_inputs: int
) -> tuple[list[Question], list[Example]]:
    """Questions as the student read them in training. Raises ApiError 413 or 422, which names the input."""
    if len(body.inputs) > max_inputs:
        message = f"{len(body.inputs):,} inputs in one request, the limit is {max_inputs:,}"
        raise ApiError(413, "too_many_inputs", message, param="inputs")
    if body.rationale and not card.has_rationale:
        message = f"model {card.name} was trained with method {card.method}, which teaches no rationales"
        raise ApiError(422, "no_rationale", message, param="rationale")
    examples = []
    for i, given in enumerate(body.inputs):
        try:
            examples.append(_example(task, given, f"input-{i}"))
        except BadRowError as error:
            raise ApiError(422, "invalid_field", f"inputs[{i}]: {error}", param=f"inputs[{i}]") from error
    return [Question(example.input, body.rationale) for example in examples], examples


def _example(task: Task, given: dict[str, JsonValue] | str, dummy_id: str) -> Example:
    if isinstance(given, str):
        return Example(id=dummy_id, input=text_field({"input": given}, "input"), gold=None)
    fields = {key: value for key, value in given.items() if key not in {"id", "gold", task.gold_field}}
    return task.read({**fields, "id": dummy_id})


def respond(
    card: StudentCard, task: Task, examples: Sequence[Example], outcomes: Sequence[Reply | TooLong], *, rationale: bool
) -> PredictResponse:
    """The response of a request. Raises ApiError 422 where an input was too long for the student.

    Args:
        rationale: whether one was asked for.
    """
    predictions = []
    prompt_tokens = completion_tokens = 0
    for i, (example, outcome) in enumerate(zip(examples, outcomes, strict=True)):
        if isinstance(outcome, TooLong):
            message = f"inputs[{i}] has {outcome.tokens:,} tokens, model {card.name} reads at most {outcome.limit:,}"
            raise ApiError(422, "input_too_long", message, param=f"inputs[{i}]")
        for part in (outcome.answer, outcome.rationale):
            prompt_tokens += part.prompt_tokens if part else 0
            completion_tokens += part.output_tokens if part else 0
        predictions.append(_prediction(card, task, example, outcome, wanted=rationale))
    usage = Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
    )
    return PredictResponse(model=card.name, predictions=predictions, usage=usage)


def _prediction(card: StudentCard, task: Task, example: Example, reply: Reply, *, wanted: bool) -> Prediction:
    read = read_answer(card.method, reply.answer.text, task, example)
    said = read.rationale or None if read and wanted else None
    return Prediction(
        label=reply.answer.text if read is None else read.label,  # unreadable: the student's words as they are
        value=None if read is None else task.value(read.label),
        confidence=reply.answer.confidence,
        rationale=reply.rationale.text if reply.rationale else said,
    )


def describe(card: StudentCard) -> dict[str, Any]:
    """A model of OpenAI's list, with what the student was made from."""
    return {
        "id": card.name,
        "object": "model",
        "created": card.created_s,
        "owned_by": "raystill",
        "task": card.task.name,
        "method": card.method,
        "family": card.family,
        "parameters": card.parameters,
        "max_input_tokens": card.max_input_tokens,
        "fingerprint": card.fingerprint,
        "provenance": dict(card.provenance),
    }


def _param(location: Sequence[int | str]) -> str | None:
    """`("inputs", 2, "str")` -> `inputs[2]`; the branches of a union are no part of the path."""
    if not location:
        return None
    index = f"[{location[1]}]" if len(location) > 1 and isinstance(location[1], int) else ""
    return f"{location[0]}{index}"


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def known(request: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @app.exception_handler(HTTPException)
    async def routing(request: Request, error: HTTPException) -> JSONResponse:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
        response = ApiError(error.status_code, code, f"{request.method} {request.url.path}: {error.detail}").response()
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def unknown(request: Request, error: Exception) -> JSONResponse:
        return ApiError(500, "internal_error", "the server failed; its log says why").response()
