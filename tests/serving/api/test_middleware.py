"""The middleware around the API: the access log with and without texts, request ids, and CORS."""

import json
import logging
from typing import Any

import pytest
from fastapi.testclient import TestClient

from pipelines.config.serving import ServingConfig
from serving.api.middleware import ACCESS_LOG
from tests.support.fake_students import FakeStudents, card, client_of

INPUT, ANSWER = "a text that somebody writes", "1 + 1 is two"


def logging_client(*, log_text: bool = False, breaks_after: int | None = None) -> TestClient:
    students = FakeStudents(labels={INPUT: ANSWER}, breaks_after=breaks_after)
    settings = ServingConfig(access_log=True, log_text=log_text)
    return client_of([card("sums"), card("texts", method="rationale-then-label")], students, settings)


def log_lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [json.loads(record.getMessage()) for record in caplog.records if record.name == ACCESS_LOG]


@pytest.fixture(autouse=True)
def _access_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, ACCESS_LOG)


@pytest.mark.parametrize("log_text", [True, False])
def test_texts_are_logged_only_with_log_text(caplog: pytest.LogCaptureFixture, log_text: bool) -> None:
    client = logging_client(log_text=log_text)
    client.post("/v1/predict", json={"model": "sums", "inputs": [INPUT]})
    for stream in (False, True):
        client.post("/v1/completions", json={"model": "sums", "prompt": INPUT, "stream": stream})
        message = {"role": "user", "content": INPUT}
        client.post("/v1/chat/completions", json={"model": "sums", "messages": [message], "stream": stream})
    lines = log_lines(caplog)
    assert [line["route"] for line in lines] == ["/v1/predict", *["/v1/completions", "/v1/chat/completions"] * 2]
    texts = [(line.get("asked"), line.get("answered")) for line in lines]
    assert texts == [([INPUT], [ANSWER]) if log_text else (None, None)] * 5
    assert log_text == (INPUT in caplog.text) == (ANSWER in caplog.text)


def test_the_sent_part_of_a_broken_stream_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    body = {"model": "sums", "prompt": INPUT, "stream": True}
    logging_client(log_text=True, breaks_after=2).post("/v1/completions", json=body)
    (line,) = log_lines(caplog)
    assert (line["answered"], line["code"]) == (["1 + "], "model_away")


@pytest.mark.parametrize(
    ("given", "logged"),
    [
        (b"a b/c:d", "a b/c:d"),
        ("trace=<1>;\x1b[31m\t\u0085\u202e".encode(), "trace=<1>;[31m"),
        ("Gr\u00fc\u00dfe".encode(), "Gr\u00fc\u00dfe"),
        (b"x" * 300, "x" * 200),
    ],
)
def test_the_log_has_the_id_that_serve_returns(caplog: pytest.LogCaptureFixture, given: bytes, logged: str) -> None:
    """Serve's proxy returns any id of the client: nobody would find another id in the log."""
    response = logging_client().get("/v1/models", headers=[(b"x-request-id", given)])
    assert "x-request-id" not in response.headers
    assert log_lines(caplog)[0]["request_id"] == logged


def test_only_configured_origins_get_cors_headers() -> None:
    students = FakeStudents()
    named, other = ({"origin": f"https://{name}.example.com"} for name in ("app", "evil"))
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    for origins, origin in (([], named), ([named["origin"]], other)):
        client = client_of([card("sums")], students, ServingConfig(cors_origins=origins))
        answer = client.post("/v1/predict", json={"inputs": [INPUT]}, headers=origin)
        preflight = client.options("/v1/predict", headers={**origin, **asks})
        assert (answer.status_code, preflight.status_code) == (200, 400 if origins else 405)
        assert "access-control-allow-origin" not in {*answer.headers, *preflight.headers}
    answer = client.post("/v1/predict", json={"inputs": [INPUT]}, headers=named)
    preflight = client.options("/v1/predict", headers={**named, **asks})
    assert [found.headers["access-control-allow-origin"] for found in (answer, preflight)] == [named["origin"]] * 2
    assert preflight.status_code == 200
    exposed = {name.strip() for name in answer.headers["access-control-expose-headers"].split(",")}
    assert exposed == {"x-request-id", "retry-after"}
