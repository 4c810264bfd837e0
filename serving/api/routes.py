"""The HTTP application. It knows students by their cards and calls them through a ReplicaClient.

If keys are configured, `/v1/*` needs one. `/`, health and the OpenAPI document are always open.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from opentelemetry.trace import Tracer
from starlette.middleware.cors import CORSMiddleware

from pipelines.config.serving import ServingConfig
from pipelines.storage.manifest import library_versions
from pipelines.tasks.base import Task
from serving.api import event_stream
from serving.api.api_keys import KeyRing
from serving.api.body_limit import BodyLimitMiddleware
from serving.api.errors import ApiError, add_error_handlers
from serving.api.guarded_route import guarded_router
from serving.api.host_check import HostMiddleware, answered_hosts
from serving.api.middleware import REQUEST_ID, RequestMiddleware
from serving.api.models import Model, ModelList, describe
from serving.api.openai_requests import (
    ChatRequest,
    CompletionRequest,
    OpenAIRequest,
    chat_requests,
    check_answered,
    completion_requests,
)
from serving.api.openai_responses import (
    ChatCompletion,
    Completion,
    ResponseBuilder,
    to_json,
)
from serving.api.openapi_document import error_responses, stream_responses
from serving.api.predict import Prediction, PredictRequest, PredictResponse, build_response, read_inputs
from serving.api.request_context import RequestContext, client_name, request_context
from serving.engines.select import draws_with_seeds
from serving.messages import Piece, TextRequest, UnavailableError
from serving.model_card import StudentCard
from serving.page import CONTENT_SECURITY_POLICY, page
from serving.registry import READ_AGAIN_S, Registry
from serving.tracing import NO_TRACER

if TYPE_CHECKING:
    from serving.metrics import IngressMetrics
    from serving.replica_client import ReplicaClient

_RANDOM = random.SystemRandom()
_BODY_TIMEOUT_S = 10.0
"""Short, because a request that waits for its body occupies one of the ingress' places."""


@dataclass(frozen=True)
class Api:
    """What the routes share."""

    registry: Callable[[], Registry]
    """The students now: they may change while requests run."""
    backend: ReplicaClient
    any_can_answer: Callable[[Collection[str]], Awaitable[bool]]
    """True if one of these students has a replica that answers, or can get one."""
    settings: ServingConfig
    keys: KeyRing
    metrics: IngressMetrics

    def max_inputs(self) -> int:
        """Inputs per request. More than the queue holds could never be answered."""
        return min(self.settings.limits.inputs, self.settings.max_queued_requests)

    def select(self, name: str | None, context: RequestContext) -> tuple[StudentCard, Task]:
        """The student for a model name.

        Raises:
            ApiError: 404 for an unknown name, 400 if a name is needed, 503 if the student is unavailable.
        """
        registry = self.registry()
        names = ", ".join(registry.ids) or "none yet"
        try:
            card = registry.select(name, _RANDOM)
        except KeyError as error:
            message = f"unknown model; the models are: {names}"
            raise ApiError(404, "model_not_found", message, param="model") from error
        except UnavailableError as error:
            context.model = str(error)
            problem = (
                "its folder cannot be read, or no engine runs it. The endpoint tries again; its log has the reason"
            )
            message = f"model {error} is unavailable: {problem}"
            raise ApiError(503, "model_away", message, retry_after_s=READ_AGAIN_S) from error
        if card is None:
            raise ApiError(400, "model_required", f"name one of the models: {names}", param="model")
        context.model = card.id
        return card, registry.tasks[card.id]

    def describe(self, card: StudentCard) -> Model:
        """A student for `/v1/models`."""
        return describe(card, self.registry(), self.settings, self.backend.engine(card))


def create_app(api: Api, *, tracer: Tracer = NO_TRACER) -> RequestMiddleware:
    """The ASGI application. Serve's proxy in front of it adds `x-request-id` to requests and responses."""
    # Without redirects: their Location would repeat the Host header, and `http` behind a proxy with TLS.
    app = FastAPI(
        title="Raystill", description="Task students behind HTTP.", version=library_versions().get("raystill", "unknown"),
        docs_url=None, redoc_url=None, redirect_slashes=False,
    )  # fmt: skip
    app.include_router(_open_routes(api))
    app.include_router(_prediction_routes(api))
    app.include_router(_openai_routes(api))
    add_error_handlers(app)
    timeout_s = min(_BODY_TIMEOUT_S, api.settings.request_timeout_s)
    app.add_middleware(BodyLimitMiddleware, max_bytes=api.settings.limits.body_bytes, timeout_s=timeout_s)
    if (hosts := answered_hosts(api.settings)) is not None:
        app.add_middleware(HostMiddleware, hosts=hosts)
    if api.settings.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=api.settings.cors_origins, allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", REQUEST_ID], expose_headers=[REQUEST_ID, "retry-after"],
        )  # fmt: skip
    settings = api.settings
    return RequestMiddleware(app, api.metrics, settings.access_log, settings.log_text, tracer)


def _open_routes(api: Api) -> APIRouter:
    router = APIRouter()

    @router.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def index() -> HTMLResponse:
        headers = {"Content-Security-Policy": CONTENT_SECURITY_POLICY, "X-Content-Type-Options": "nosniff"}
        return HTMLResponse(page(), headers=headers)

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Returns 200 while the endpoint takes requests, even if students are scaled to zero."""
        return {"status": "ok"}

    @router.get("/readyz", responses={503: {"description": "No student can answer yet, or any more."}})
    async def readyz() -> Response:
        """Returns 200 while a student has a replica that answers, or can get one."""
        started = {card.id for card in api.registry().cards} - api.registry().starting
        if not started:
            return JSONResponse({"status": "starting"}, 503)
        able = await api.any_can_answer(started)
        return JSONResponse({"status": "ready" if able else "failing"}, 200 if able else 503)

    return router


def _prediction_routes(api: Api) -> APIRouter:
    router = guarded_router(api.keys)

    @router.post("/predict", response_model_exclude_none=True, responses=error_responses())
    async def predict(body: PredictRequest, request: Request) -> PredictResponse:
        """Label, confidence and, if requested, rationale of each input."""
        context = request_context(request)
        card, task = api.select(body.model, context)
        inputs = read_inputs(body, card, task, api.max_inputs(), api.settings)
        context.inputs = len(body.inputs)
        context.input_texts = [question.text for question in inputs.questions]
        await api.keys.admit(context.key, len(inputs.questions))
        outcomes = await api.backend.answer(card, inputs.questions, client_name(request))
        response = build_response(card, task, inputs, outcomes, rationale=body.rationale)
        context.output_texts = [p.label if isinstance(p, Prediction) else "" for p in response.predictions]
        context.prompt_tokens, context.output_tokens = response.usage.prompt_tokens, response.usage.completion_tokens
        await api.keys.spend(context.key, response.usage.total_tokens)
        return response

    @router.get("/models", response_model_exclude_unset=True, responses=error_responses(401, 429))
    async def models() -> ModelList:
        """The students, with what each was made from."""
        return ModelList(object="list", data=[api.describe(card) for card in api.registry().cards])

    @router.get("/models/{name}", response_model_exclude_unset=True, responses=error_responses(401, 404, 429, 503))
    async def model(name: str, request: Request) -> Model:
        """One student, with what it was made from."""
        return api.describe(api.select(name, request_context(request))[0])

    return router


def _openai_routes(api: Api) -> APIRouter:
    router = guarded_router(api.keys)

    @router.post("/completions", response_model=Completion, responses=stream_responses())
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Texts that continue the prompts, as in OpenAI's API."""
        card, _ = api.select(body.model, request_context(request))
        texts = completion_requests(body, card, api.max_inputs(), api.settings)
        return await _generate(api, request, card, texts, body)

    @router.post("/chat/completions", response_model=ChatCompletion, responses=stream_responses())
    async def chat(body: ChatRequest, request: Request) -> Response:
        """The student's answer to one message, as in OpenAI's API."""
        card, _ = api.select(body.model, request_context(request))
        texts = chat_requests(body, card, api.settings)
        return await _generate(api, request, card, texts, body)

    return router


def _builder(card: StudentCard, body: OpenAIRequest) -> ResponseBuilder:
    return ResponseBuilder(
        card, chat=isinstance(body, ChatRequest), copies=body.copies(), draws=body.draws(), log_probs=body.wants_logprobs,
        likeliest=body.num_likeliest > 0,
    )  # fmt: skip


async def _generate(
    api: Api,
    request: Request,
    card: StudentCard,
    texts: list[TextRequest],
    body: OpenAIRequest,
) -> Response:
    """Generate texts and build their response. Raises ApiError until the first piece is sent."""
    builder, context = _builder(card, body), request_context(request)
    context.inputs, context.input_texts = len(texts), [text.text for text in texts]
    param = "prompt" if isinstance(body, CompletionRequest) else "messages"
    _check_seed(api, card, texts, body)
    if body.stream and (len(texts) > 1 or body.copies() > 1):
        raise ApiError(400, "unsupported_parameter", "a stream has one prompt and one text", param="stream")
    await api.keys.admit(context.key, len(texts))
    client = client_name(request)
    if not body.stream:
        pieces = check_answered(card, await api.backend.write(card, texts, client), param, body.draws())
        for piece in pieces:
            context.prompt_tokens += piece.prompt_tokens
            context.output_tokens += piece.output_tokens
            context.output_texts.append(piece.text)
        await api.keys.spend(context.key, context.prompt_tokens + context.output_tokens)
        return Response(to_json(builder.whole(pieces)), media_type="application/json")
    started = time.perf_counter()
    source = api.backend.stream(card, texts[0], client)

    async def first() -> Piece:
        piece = check_answered(card, [await anext(source)], param)[0]
        api.metrics.first_token(card.id, time.perf_counter() - started)
        return piece

    begun = asyncio.create_task(first())
    try:
        await asyncio.wait([begun], timeout=event_stream.HEARTBEAT_S)
        if begun.done():
            begun.result()  # an error so early has a status
    except BaseException:
        async with event_stream.closed_after(source, begun):
            raise
    with_usage = bool(body.stream_options and body.stream_options.include_usage)

    async def spend() -> None:
        await api.keys.spend(context.key, context.prompt_tokens + context.output_tokens)

    stream = event_stream.events(source, begun, builder, context, with_usage=with_usage)
    return event_stream.EventStream(stream, source, begun, spend)


def _check_seed(api: Api, card: StudentCard, texts: list[TextRequest], body: OpenAIRequest) -> None:
    """Raises ApiError 400 if the request sets a seed that the student's engine would ignore."""
    samples = any(text.sampling for text in texts)
    if samples and body.seed is not None and not draws_with_seeds(card.family, api.settings):
        message = f"the engine of model {card.id} samples without seeds. Leave out the seed or the temperature"
        raise ApiError(400, "unsupported_parameter", message, param="seed")
