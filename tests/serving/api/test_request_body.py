"""What a request's body may be, on all routes that read one. Fake students answer from a table."""

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from serving.api.openai_requests import ChatRequest, CompletionRequest
from serving.api.predict import PredictRequest
from serving.messages import Question
from tests.support.asgi import error_of
from tests.support.fake_students import FakeStudents, card, client_of

PATHS = ["predict", "completions", "chat/completions"]


@pytest.fixture
def students() -> FakeStudents:
    return FakeStudents()


@pytest.fixture
def client(students: FakeStudents) -> TestClient:
    return client_of([card("sums"), card("plain", method="finetune")], students)


UNREADABLE = (
    b"{not json", b"", b"null", b'{"inputs": ["\xff\xfe"]}', b'{"inputs": ["\\ud800"]}', b'{"inputs": [{"\\ud800": 1}]}',
    b'{"inputs": [NaN]}', b'{"inputs": [{"input": Infinity}]}', b'{"inputs": ' + b"[" * 5000,
    b'{"inputs": ' + b"[" * 4000 + b"]" * 4000 + b"}",
)  # fmt: skip
WRONG = [
    (b'["a"]', None),
    (b'"text"', None),
    *[(body, "inputs") for body in (b'{"rationale": false}', b'{"inputs": "one"}', b'{"inputs": []}')],
    (b'{"inputs": ["one", 2]}', "inputs[1]"),
    (b'{"inputs": ["one"], "rationale": "yes"}', "rationale"),
    (b'{"inputs": ["one"], "model": 3}', "model"),
    (b'{"inputs": ["one"], "modell": "sums"}', "modell"),
]


@pytest.mark.parametrize("path", PATHS)
def test_an_invalid_body_gets_400(client: TestClient, students: FakeStudents, path: str) -> None:
    for body in UNREADABLE:
        error_of(client.post(f"/v1/{path}", content=body), 400, "invalid_json")
    for body, param in WRONG if path == "predict" else ():
        error_of(client.post("/v1/predict", content=body), 400, "invalid_request", param)
    assert students.questions == students.requests == []


def test_other_bodies_are_read_or_explained(client: TestClient, students: FakeStudents) -> None:
    body = b'{"inputs": ["one"], "model": "plain", "inputs": ["two"], "model": "sums"}'
    assert client.post("/v1/predict", content=body).json()["model"] == "sums"
    assert students.questions == [("sums", [Question("two")])]
    for name, value, status in [
        ("type", "text/plain", 415), ("type", "application/x-www-form-urlencoded", 415), ("type", "", 415),
        ("encoding", "gzip", 415), ("type", "application/json; charset=utf-8", 200), ("type", "application/ld+json", 200),
        ("encoding", "identity", 200),
    ]:  # fmt: skip
        response = client.post("/v1/predict", content=body, headers={f"content-{name}": value})
        assert response.status_code == status, (name, value)
        if status == 415:
            error_of(response, 415, f"unsupported_{'media_type' if name == 'type' else 'encoding'}")


MANY = {str(i): 1 for i in range(1000)}
CHAT = {"role": "user", "content": "one"}
SPACES, DEEP = " " * 1_000_000, json.loads("[" * 150 + "]" * 150)


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": [1] * 1000}, MANY,
        *[{"prompt": [1] * 1000, name: value} for name, value in {
            "prompt": [1] * 1000, "metadata": MANY, "logit_bias": dict.fromkeys(MANY, "x"), "stop": [1] * 1000, "guided_choice": [1] * 1000,
            "stream_options": MANY, "structured_outputs": {"choice": [1] * 1000}}.items()],
        *[{"messages": [CHAT], name: value} for name, value in {
            "metadata": MANY, "tools": [1] * 1000, "functions": [1] * 1000, "modalities": [1] * 1000, "response_format": MANY}.items()],
        *[{"messages": messages} for messages in (
            [CHAT] * 1000, [{"role": "x"}] * 1000, [{**CHAT, "content": [1] * 1000}], [{**CHAT, **MANY}],
            [{**CHAT, "content": [{"type": "text", "text": "a"}] * 1000}], [{**CHAT, "content": [{"type": "text", "text": "a", **MANY}]}])],
    ],
)  # fmt: skip
def test_a_body_full_of_errors_reports_few_of_them(body: dict[str, Any]) -> None:
    """Otherwise a body of 4 MiB would block the ingress for a minute and fill gigabytes."""
    kind = CompletionRequest if "prompt" in body else ChatRequest if "messages" in body else PredictRequest
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(body)
    assert caught.value.error_count() <= 4


STRANGE = {
    "a million spaces": {"prompt": SPACES, "messages": [{**CHAT, "content": SPACES}], "inputs": [SPACES]},
    "huge numbers": {"prompt": "a", "messages": [CHAT], "inputs": [{"input": 10**400}], "n": 10**400, "temperature": 10**400},
    "a deep value": {"prompt": DEEP, "messages": [{**CHAT, "content": DEEP}], "inputs": [{"input": DEEP}], "tools": DEEP},
    "fields of others": {"inputs": [{"id": [1], "gold": {"a": 1}, "label": [2], "input": "a", "x": [DEEP] * 100}], "prompt": "a"},
    "a long name": {"model": "a" * 9_000, "inputs": ["a"], "prompt": "a", "messages": [CHAT]},
}  # fmt: skip


@pytest.mark.parametrize("name", STRANGE)
@pytest.mark.parametrize("path", PATHS)
def test_a_strange_body_is_answered_in_few_words(students: FakeStudents, path: str, name: str) -> None:
    known = {"predict": PredictRequest, "completions": CompletionRequest}.get(path, ChatRequest).model_fields
    body = {key: value for key, value in STRANGE[name].items() if key in known}
    response = client_of([card("sums")], students).post(f"/v1/{path}", json=body)
    assert response.status_code in (200, 400, 404, 422), response.text
    assert len(response.content) < 1000
