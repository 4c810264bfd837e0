"""The HTTP application: routes, keys, limits. Knows students by their cards; asks them through a `Backend`.

`/v1/*` needs a key where keys are configured; `/`, health and the OpenAPI document are open to everyone.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Receive, Scope, Send

from pipelines.config.serving import ServingConfig
from pipelines.tasks.base import Task
from serving.api.api_keys import KeyRing
from serving.api.backend import Backend
from serving.api.errors import ApiError, add_error_handlers, failed
from serving.api.middleware import REQUEST_ID, Metrics, RequestMiddleware
from serving.api.models import Model, ModelList, describe
from serving.api.openai_requests import ChatRequest, CompletionRequest, chat_order, completion_orders, fitting
from serving.api.openai_responses import ChatCompletion, ChatCompletionChunk, Completion, CompletionChunk, Shape
from serving.api.openapi_document import add_document, answered, described, errors
from serving.api.predict import PredictRequest, PredictResponse, read_inputs, respond
from serving.api.request_body import parse_body, read_body
from serving.api.request_context import RequestContext, notes_of
from serving.engines.select import draws_with_seeds
from serving.messages import Piece, TextRequest, TooLong, UnavailableError
from serving.model_card import StudentCard
from serving.page import CONTENT_SECURITY_POLICY, page
from serving.registry import READ_AGAIN_S, Registry

_logger = logging.getLogger(__name__)
_CHANCE = random.SystemRandom()
_BODY_S = 10.0
"""For a body to arrive. Short, since one that never does holds one of the ingress' places meanwhile."""


@dataclass(frozen=True)
class Api:
    """What the routes share."""

    roster: Callable[[], Registry]
    """The students as they are now: a new version may come while requests are under way."""
    backend: Backend
    settings: ServingConfig
    keys: KeyRing
    metrics: Metrics

    async def body(self, request: Request) -> bytes:
        """A request's body, within the limits."""
        limit_s = min(_BODY_S, self.settings.request_timeout_s)
        return await read_body(request, self.settings.limits.body_bytes, limit_s)

    def max_inputs(self) -> int:
        """Inputs of one request: no more than the queue holds, since more could never be answered."""
        return min(self.settings.limits.inputs, self.settings.max_queued_requests)

    def choose(self, name: str | None, notes: RequestContext) -> tuple[StudentCard, Task]:
        """The student that answers. Raises ApiError 404, 400 where a name is needed, or 503 where its folder cannot be read."""
        roster = self.roster()
        names = ", ".join(roster.ids) or "none yet"
        try:
            card = roster.card(name, _CHANCE)
        except KeyError as error:
            message = f"there is no model of that name; there are: {names}"
            raise ApiError(404, "model_not_found", message, param="model") from error
        except UnavailableError as error:
            notes.model = str(error)
            message = (
                f"model {error} is away: its folder cannot be read, and is tried again; the endpoint's log says why"
            )
            raise ApiError(503, "model_away", message, retry_after_s=READ_AGAIN_S) from error
        if card is None:
            raise ApiError(400, "model_required", f"name one of the models: {names}", param="model")
        notes.model = card.id
        return card, roster.tasks[card.id]

    def describe(self, card: StudentCard) -> Model:
        """A student for `/v1/models`."""
        return describe(card, self.roster(), self.settings, self.backend.engine(card))


def create_app(api: Api, *, names_requests: bool = True) -> RequestMiddleware:
    """The ASGI application.

    Args:
        names_requests: set `x-request-id` on answers. False behind Ray Serve's proxy, which does, and hands the id on.

    Raises:
        UserError: a student's task cannot be loaded.
    """
    app = FastAPI(title="Raystill", description="Students that answer.", docs_url=None, redoc_url=None)
    app.include_router(_open_routes(api))
    app.include_router(_prediction_routes(api))
    app.include_router(_openai_routes(api))
    add_error_handlers(app)
    add_document(app, locked=not api.keys.open)
    if api.settings.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=api.settings.cors_origins, allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", REQUEST_ID], expose_headers=[REQUEST_ID, "retry-after"],
        )  # fmt: skip
    return RequestMiddleware(app, api.metrics, api.settings.access_log, api.settings.log_text, names_requests)


def _open_routes(api: Api) -> APIRouter:
    router = APIRouter()

    @router.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def index() -> HTMLResponse:
        headers = {"Content-Security-Policy": CONTENT_SECURITY_POLICY, "X-Content-Type-Options": "nosniff"}
        return HTMLResponse(page(), headers=headers)

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Answers while the endpoint takes requests; students may be scaled to zero meanwhile."""
        return {"status": "ok"}

    @router.get("/readyz", responses={503: {"description": "No student is known yet."}})
    async def readyz() -> Response:
        """Answers 200 once the students are known."""
        ready = bool(api.roster().cards)
        return JSONResponse({"status": "ready" if ready else "starting"}, 200 if ready else 503)

    return router


def _locked(api: Api) -> APIRouter:
    """Routes that need a key where keys are configured."""

    async def checked(request: Request) -> None:
        notes_of(request).key = await api.keys.check(request.headers.get("authorization"))

    return APIRouter(prefix="/v1", dependencies=[Depends(checked)])


def _prediction_routes(api: Api) -> APIRouter:
    router = _locked(api)

    @router.post("/predict", response_model_exclude_none=True, **described(PredictRequest, PredictResponse))
    async def predict(request: Request) -> PredictResponse:
        """Label, confidence and, when asked for, rationale of each input."""
        notes = notes_of(request)
        body = parse_body(PredictRequest, await api.body(request))
        card, task = api.choose(body.model, notes)
        questions, examples = read_inputs(body, card, task, api.max_inputs(), api.settings.limits)
        notes.inputs = len(questions)
        notes.asked = [question.text for question in questions]
        response = respond(card, task, examples, await api.backend.ask(card, questions), rationale=body.rationale)
        notes.answered = [prediction.label for prediction in response.predictions]
        notes.prompt_tokens, notes.output_tokens = response.usage.prompt_tokens, response.usage.completion_tokens
        return response

    @router.get("/models", response_model_exclude_unset=True, responses={**answered(ModelList), **errors(401, 429)})
    async def models() -> ModelList:
        """The students, with what each was made from."""
        return ModelList(object="list", data=[api.describe(card) for card in api.roster().cards])

    @router.get(
        "/models/{name}", response_model_exclude_unset=True, responses={**answered(Model), **errors(401, 404, 429, 503)}
    )
    async def model(name: str, request: Request) -> Model:
        """One student, with what it was made from."""
        return api.describe(api.choose(name, notes_of(request))[0])

    return router


def _openai_routes(api: Api) -> APIRouter:
    router = _locked(api)

    @router.post("/completions", response_model=None, **described(CompletionRequest, Completion, CompletionChunk))
    async def completions(request: Request) -> Response:
        """Texts that the student writes after the prompts, as OpenAI's API has them."""
        asked = parse_body(CompletionRequest, await api.body(request))
        card, _ = api.choose(asked.model, notes_of(request))
        orders = completion_orders(asked, api.max_inputs(), api.settings.limits.input_characters)
        return await _written(api, request, card, orders, asked, Shape(card, chat=False))

    @router.post(
        "/chat/completions", response_model=None, **described(ChatRequest, ChatCompletion, ChatCompletionChunk)
    )
    async def chat(request: Request) -> Response:
        """The student's answer to one message, as OpenAI's API has it."""
        asked = parse_body(ChatRequest, await api.body(request))
        card, _ = api.choose(asked.model, notes_of(request))
        order = chat_order(asked, api.settings.limits.input_characters)
        return await _written(api, request, card, [order], asked, Shape(card, chat=True))

    return router


async def _written(
    api: Api, request: Request, card: StudentCard, orders: list[TextRequest], asked: CompletionRequest | ChatRequest,
    shape: Shape,
) -> Response:  # fmt: skip
    """The response of some orders. Raises ApiError as long as nothing has been sent."""
    notes = notes_of(request)
    notes.inputs, notes.asked = len(orders), [order.text for order in orders]
    param = "prompt" if isinstance(asked, CompletionRequest) else "messages"
    if (
        any(order.sampling for order in orders)
        and asked.seed is not None
        and not draws_with_seeds(card.family, api.settings)
    ):
        message = f"model {card.id} runs on an engine that draws without seeds; leave the seed out, or the temperature"
        raise ApiError(400, "unsupported_parameter", message, param="seed")
    if not asked.stream:
        pieces = fitting(card, list(await api.backend.write(card, orders)), param)
        for piece in pieces:
            _count(notes, piece)
        return JSONResponse(shape.whole(pieces))
    if len(orders) > 1:
        raise ApiError(400, "unsupported_parameter", "a stream has one prompt", param="stream")
    began = time.perf_counter()
    stream = api.backend.stream(card, orders[0])
    try:
        first = fitting(card, [await anext(stream)], param)[0]
    except BaseException:
        await stream.aclose()
        raise
    api.metrics.first_token(card.id, time.perf_counter() - began)
    options = asked.stream_options
    events = _events(stream, first, shape, notes, with_usage=bool(options and options.include_usage))
    return _EventStream(events, stream)


class _EventStream(StreamingResponse):
    """Server-sent events. However it ends, what makes them ends with it: starlette leaves that to the garbage collector, and a client that
    has gone would have its text written on."""

    def __init__(self, events: AsyncGenerator[str, None], source: AsyncGenerator[Any, None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._events, self._source = events, source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See StreamingResponse."""
        async with aclosing(self._source), aclosing(self._events):
            await super().__call__(scope, receive, send)


async def _events(
    stream: AsyncGenerator[Piece | TooLong, None],
    first: Piece,
    shape: Shape,
    notes: RequestContext,
    *,
    with_usage: bool,
) -> AsyncGenerator[str, None]:
    """Server-sent events: the pieces, then the usage where it is wanted, then [DONE]. An error after the first piece is an event."""
    last, texts = first, [first.text]
    try:
        yield _event(shape.chunk(first, first=True))
        async for piece in stream:
            if isinstance(piece, Piece):
                last = piece
                texts.append(piece.text)
                yield _event(shape.chunk(piece, first=False))
        if with_usage:
            yield _event(shape.usage(last))
        yield "data: [DONE]\n\n"
    except ApiError as error:
        notes.code = error.code
        yield _event(error.body())
    except Exception:  # the status has been sent: cut off, the client could not tell a fault from an end
        _logger.exception("a stream of model %s failed (request %s)", notes.model, notes.request_id)
        told = failed()
        notes.code = told.code
        yield _event(told.body())
    finally:
        notes.prompt_tokens, notes.output_tokens = last.prompt_tokens, last.output_tokens
        notes.answered.append("".join(texts))


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def _count(notes: RequestContext, piece: Piece) -> None:
    notes.prompt_tokens += piece.prompt_tokens
    notes.output_tokens += piece.output_tokens
    notes.answered.append(piece.text)
