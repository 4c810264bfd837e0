"""What stands around the API: the access log with and without texts, request ids, and which pages a browser may ask from."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from fastapi.testclient import TestClient

from pipelines.config.serving import ServingConfig
from serving.api.middleware import ACCESS_LOG
from tests.support.fake_students import Standins, card, client_of

ASKED, ANSWERED = "a text that somebody writes", "1 + 1 is two"


@pytest.fixture
def students() -> Standins:
    return Standins(labels={ASKED: ANSWERED})


def logging_client(students: Standins, *, log_text: bool = False, **app: Any) -> TestClient:
    settings = ServingConfig(access_log=True, log_text=log_text)
    return client_of([card("sums"), card("texts", method="rationale-then-label")], students, settings, **app)


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [json.loads(record.getMessage()) for record in caplog.records if record.name == ACCESS_LOG]


def ask_everything(client: TestClient) -> None:
    client.post("/v1/predict", json={"model": "sums", "inputs": [ASKED]})
    for stream in (False, True):
        client.post("/v1/completions", json={"model": "sums", "prompt": ASKED, "stream": stream})
        message = {"role": "user", "content": ASKED}
        client.post("/v1/chat/completions", json={"model": "sums", "messages": [message], "stream": stream})


def test_texts_are_logged_where_it_is_asked_for(students: Standins, caplog: pytest.LogCaptureFixture) -> None:
    """Those of streams too, whole."""
    with caplog.at_level(logging.INFO, ACCESS_LOG):
        ask_everything(logging_client(students, log_text=True))
    assert [(line["route"], line["asked"], line["answered"]) for line in lines(caplog)] == [
        ("/v1/predict", [ASKED], [ANSWERED]),
        *[("/v1/completions", [ASKED], [ANSWERED]), ("/v1/chat/completions", [ASKED], [ANSWERED])] * 2,
    ]


def test_texts_are_in_no_log_otherwise(students: Standins, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, ACCESS_LOG):
        ask_everything(logging_client(students))
    assert len(lines(caplog)) == 5
    assert all("asked" not in line and "answered" not in line for line in lines(caplog))
    assert ASKED not in caplog.text
    assert ANSWERED not in caplog.text


def test_of_a_stream_that_breaks_off_what_was_sent_is_logged(
    students: Standins, caplog: pytest.LogCaptureFixture
) -> None:
    students.breaks_after = 2
    with caplog.at_level(logging.INFO, ACCESS_LOG):
        logging_client(students, log_text=True).post(
            "/v1/completions", json={"model": "sums", "prompt": ASKED, "stream": True}
        )
    (line,) = lines(caplog)
    assert (line["answered"], line["code"]) == (["1 + "], "model_away")


@pytest.mark.parametrize(
    ("given", "logged"),
    [
        (b"find-me", "find-me"),
        (b"a b/c:d", "a b/c:d"),
        ("trace=<1>;\x1b[31m\t\u0085\u202e".encode(), "trace=<1>;[31m"),
        ("Gr\u00fc\u00dfe".encode(), "Gr\u00fc\u00dfe"),
        (b"x" * 300, "x" * 200),
    ],
)
def test_the_log_has_the_id_that_serve_answers(
    students: Standins, caplog: pytest.LogCaptureFixture, given: bytes, logged: str
) -> None:
    """Serve's proxy answers with whatever the client has sent: another id in the log would be found by nobody."""
    client = logging_client(students, names_requests=False)
    with caplog.at_level(logging.INFO, ACCESS_LOG):
        response = client.get("/v1/models", headers=[(b"x-request-id", given)])
    assert "x-request-id" not in response.headers
    assert lines(caplog)[0]["request_id"] == logged


def test_no_page_of_another_origin_may_ask(students: Standins) -> None:
    client = client_of([card("sums")], students)
    origin = {"origin": "https://app.example.com"}
    for response in (
        client.post("/v1/predict", json={"inputs": [ASKED]}, headers=origin),
        client.options("/v1/predict", headers={**origin, "access-control-request-method": "POST"}),
    ):
        assert not [name for name in response.headers if name.startswith("access-control-")]


def test_pages_of_the_origins_that_are_named_may_ask(students: Standins) -> None:
    named = "https://app.example.com"
    client = client_of([card("sums")], students, ServingConfig(cors_origins=[named]))
    wanted = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    asked = client.options("/v1/predict", headers={"origin": named, **wanted})
    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, named)
    answer = client.post("/v1/predict", json={"inputs": [ASKED]}, headers={"origin": named})
    assert answer.headers["access-control-allow-origin"] == named
    exposed = {name.strip() for name in answer.headers["access-control-expose-headers"].split(",")}
    assert exposed == {"x-request-id", "retry-after"}
    other = client.options("/v1/predict", headers={"origin": "https://evil.example.com", **wanted})
    assert other.status_code == 400
    assert "access-control-allow-origin" not in other.headers
