"""Traces of the ingress, by OpenTelemetry, sent to the collector of `serving.traces`.

Spans of one request; its parent is the client's `traceparent`, if there is one:

    POST /v1/predict                     status, student, tokens; no text
      queue                              until it is the turn of a slice of its inputs
      replica                            a call of a replica with that slice

Exporters read OTEL_EXPORTER_OTLP_HEADERS, OTEL_TRACES_SAMPLER and the other variables of OpenTelemetry's specification.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.propagate import extract
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer
from starlette.types import Scope

from pipelines.config.serving import ServingConfig
from serving.api.request_context import RequestContext

_NAME = "raystill"
NO_TRACER: Tracer = trace.NoOpTracer()
_NO_TEXT: Any = {"record_exception": False, "set_status_on_exception": False}
"""By default a span holds the message of an exception, in which an engine may quote an input."""


def ingress_tracer(serving: ServingConfig) -> Tracer:
    """A tracer whose spans go to the collector in the background; one that does nothing without `serving.traces`."""
    if serving.traces is None:
        return NO_TRACER
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # Of its own, not the process' global provider, which belongs to Ray.
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: f"{_NAME}-ingress"}))
    exporter = OTLPSpanExporter(endpoint=f"{serving.traces.rstrip('/')}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider.get_tracer(_NAME)


@contextmanager
def request_span(tracer: Tracer, scope: Scope, route: str) -> Iterator[Span]:
    """The span of an HTTP request; `end_request` completes it."""
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    attributes = {"http.request.method": scope["method"], "http.route": route}
    with tracer.start_as_current_span(
        f"{scope['method']} {route}", context=extract(headers), kind=SpanKind.SERVER, attributes=attributes, **_NO_TEXT
    ) as span:
        yield span


@contextmanager
def part_span(tracer: Tracer, name: str, inputs: int | None = None) -> Iterator[None]:
    """The span of a part of a request. `inputs`: their number."""
    attributes = {} if inputs is None else {"raystill.inputs": inputs}
    with tracer.start_as_current_span(name, attributes=attributes, **_NO_TEXT) as span:
        try:
            yield
        except Exception as error:
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(StatusCode.ERROR)
            raise


def end_request(span: Span, context: RequestContext, status: int) -> None:
    """Add what is known at the end. Names by OpenTelemetry's conventions for HTTP and for generative AI."""
    span.set_attributes(
        {
            "http.response.status_code": status,
            "raystill.request_id": context.request_id,
            "raystill.inputs": context.inputs,
            "gen_ai.request.model": context.model,
            "gen_ai.usage.input_tokens": context.prompt_tokens,
            "gen_ai.usage.output_tokens": context.output_tokens,
        }
    )
    if context.code is not None:
        span.set_attribute("error.type", context.code)
    if status >= 500:
        span.set_status(StatusCode.ERROR)
