"""Traces of requests reach an OpenTelemetry collector over HTTP, without texts."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from fastapi.testclient import TestClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from pipelines.config.serving import ServingConfig
from pipelines.students.decoding import Decoded
from serving import replica_client
from serving.api.api_keys import KeyRing
from serving.api.routes import Api, create_app
from serving.messages import Batch, Reply
from serving.registry import Registry
from serving.replica_client import ReplicaClient
from serving.tracing import NO_TRACER, ingress_tracer
from tests.support.fake_students import FakeMetrics, FakeStudents, card

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Handle:
    """Serve's handle of a student that answers everything but `bad`."""

    answer = property(lambda self: self)

    def remote(self, items: list[Any]) -> Any:
        async def reply() -> Batch[Reply]:
            if items[0].text == "bad secret":
                raise ValueError(f"cannot answer {items[0].text}")
            return Batch([Reply(Decoded("4 - 1", 0.75, 10, 4), engine="transformers")] * len(items), "one", 16)

        return reply()


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[Any], threading.Event]]:
    """Its URL, the spans that it has taken, and an event that is set once there are some."""
    spans, arrived = [], threading.Event()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                spans.extend(span for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.end_headers()
            arrived.set()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    for name, value in {"BSP_SCHEDULE_DELAY": "200", "EXPORTER_OTLP_COMPRESSION": "none"}.items():
        monkeypatch.setenv(f"OTEL_{name}", value)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", spans, arrived
    server.shutdown()
    server.server_close()


def client_with(settings: ServingConfig, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    monkeypatch.setattr(replica_client.serve, "get_deployment_handle", lambda *_: Handle())
    tracer, registry = ingress_tracer(settings), Registry([card("sums")], {}, {})
    students, keys = ReplicaClient(settings, tracer), KeyRing(settings.keys)
    api = Api(lambda: registry, students, FakeStudents().any_can_answer, settings, keys, FakeMetrics())
    return TestClient(create_app(api, tracer=tracer), base_url="http://localhost", raise_server_exceptions=False)


def test_a_request_is_a_span_with_queue_and_replica(
    collector: tuple[str, list[Any], threading.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, spans, arrived = collector
    client = client_with(ServingConfig(traces=url), monkeypatch)
    client.get("/healthz")
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "r1"}
    assert client.post("/v1/predict", json={"inputs": ["a secret"]}, headers=headers).status_code == 200
    assert arrived.wait(10.0)
    by_name = {span.name: span for span in spans}
    assert list(by_name) == ["queue", "replica", "POST /v1/predict"], "probes have no spans"
    request = by_name["POST /v1/predict"]
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    assert request.parent_span_id.hex() == PARENT
    assert {by_name[name].parent_span_id for name in ("queue", "replica")} == {request.span_id}
    known = {one.key: one.value.string_value or one.value.int_value for one in request.attributes}
    assert known == {
        "http.request.method": "POST", "http.route": "/v1/predict", "http.response.status_code": 200, "raystill.request_id": "r1",
        "raystill.inputs": 1, "gen_ai.request.model": "sums", "gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 4,
    }  # fmt: skip
    arrived.clear()
    assert client.post("/v1/predict", json={"inputs": ["bad secret"]}).status_code == 500
    assert arrived.wait(10.0)
    failed = {span.name: span.status.code for span in spans[3:]}
    assert failed == {"queue": 0, "replica": 2, "POST /v1/predict": 2}
    assert "secret" not in str(spans)


def test_requests_are_answered_without_a_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ingress_tracer(ServingConfig()) is NO_TRACER
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    client = client_with(ServingConfig(traces="http://127.0.0.1:9"), monkeypatch)
    assert client.post("/v1/predict", json={"inputs": ["one"]}).status_code == 200


@pytest.mark.parametrize("value", ["collector:4318", "http://user:secret@collector:4318"])
def test_a_collector_is_a_url_without_credentials(value: str) -> None:
    with pytest.raises(ValueError, match="traces"):
        ServingConfig(traces=value)
