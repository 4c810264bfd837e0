"""Hostile clients get the right status and a clear message, and the server keeps running."""

import json
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipelines.config.serving import LimitsConfig, ServingConfig
from tests.support.endpoints import endpoint_of, small, wait_until
from tests.support.local_ray import local_ray
from tests.support.tiny_students import TEXTS, write_student

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def settings() -> ServingConfig:
    return small(limits=LimitsConfig(body_bytes=1 << 20), request_timeout_s=5.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_student(tmp_path_factory.mktemp("students") / "student", "decoder-only")


@pytest.fixture(scope="module")
def client(folder: Path, settings: ServingConfig) -> Iterator[httpx.Client]:
    with local_ray(), endpoint_of({"sums": folder}, settings) as client:
        yield client


@pytest.fixture(autouse=True)
def lives_on(client: httpx.Client) -> Iterator[None]:
    yield
    assert client.post("/v1/predict", json={"inputs": [TEXTS[0]]}).status_code == 200


def code(response: httpx.Response) -> tuple[int, str]:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert "Traceback" not in response.text
    return response.status_code, error["code"]


def test_enormous_and_strange_inputs(client: httpx.Client) -> None:
    def predict(*inputs: Any) -> tuple[int, str]:
        return code(client.post("/v1/predict", json={"inputs": list(inputs)}))

    assert [predict(text) for text in ("a" * 200_000, "apples " * 5_000)] == [(422, "input_too_long")] * 2
    assert [predict(text) for text in ("", "a\x00b", {"input": {"a": 1}})] == [(422, "invalid_field")] * 3
    for text in ("\x01\x02\x1b[31m", "\u202eabc", "🙂" * 5, "</s>", "<pad> <s>"):
        assert client.post("/v1/predict", json={"inputs": [text]}).status_code == 200, text
    for path in ("/v1/models/..%2f..%2fetc%2fpasswd", "/v1/models/%00", "/../../etc/passwd", "/v1//predict", "/%ff"):
        assert client.get(path).status_code in (400, 404)


def raw(client: httpx.Client) -> socket.socket:
    return socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=30.0)


def request_head(length: int) -> bytes:
    return f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n".encode()


def test_slow_clients_delay_no_other_client(client: httpx.Client) -> None:
    """Slow-loris: 200 connections that never finish their head, 20 that never finish their body."""
    heads = [raw(client) for _ in range(200)]
    bodies = [raw(client) for _ in range(20)]
    try:
        for connection in heads:
            connection.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: x\r\n")
        for connection in bodies:
            connection.sendall(request_head(1000) + b'{"inputs"')
        began = time.monotonic()
        assert client.post("/v1/predict", json={"inputs": [TEXTS[0]]}).status_code == 200
        assert time.monotonic() - began < 5.0
        answer = HTTPResponse(bodies[0])
        answer.begin()
        assert answer.status == 408
        assert json.loads(answer.read())["error"]["code"] == "body_timeout"
    finally:
        for connection in (*heads, *bodies):
            connection.close()


@pytest.mark.full
def test_a_full_ingress_requests_a_retry(client: httpx.Client, folder: Path, settings: ServingConfig) -> None:
    """Eight requests in the ingress and eight in its queue: the others are refused, except a few in transit.

    Without a bound, all others would wait for the first ones. This test runs last because it narrows the endpoint.
    """
    from ray import serve

    from serving.deploy.rollout import serve_students

    def replicas() -> dict[str, int]:
        return dict(serve.status().applications["raystill"].deployments["ingress"].replica_states)

    narrow = {"max_queued_requests": 1, "max_batch_size": 1, "target_ongoing_requests": 1}
    serve_students({"sums": str(folder)}, settings.model_copy(update=narrow))
    wait_until(lambda: replicas() == {"RUNNING": 1}, of=replicas)
    time.sleep(1.0)  # until the proxy knows: the previous ingress had room for hundreds
    with ExitStack() as stack:
        connections = [stack.enter_context(raw(client)) for _ in range(24)]
        for connection in connections:
            connection.sendall(request_head(1000) + b'{"inputs"')
        answers = [HTTPResponse(connection) for connection in connections]
        for answer in answers:
            answer.begin()
    found = Counter(answer.status for answer in answers)
    assert set(found) == {408, 503}, found
    assert found[503] >= 4, found
    for answer in answers:
        assert answer.status == 408 or int(answer.headers["retry-after"]) >= 1
    wait_until(lambda: client.post("/v1/predict", json={"inputs": [TEXTS[0]]}).status_code == 200)
