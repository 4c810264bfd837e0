"""The HTTP side without Ray: a student that answers from a table sits behind it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from fastapi.testclient import TestClient

from pipelines.decode import Decoded
from pipelines.tasks.base import TaskSpec
from serving.api import ApiError, Limits, create_app
from serving.students import Question, Reply, StudentCard, TooLong

PAIR_TASK = """
from pipelines.errors import UnparsableError
from pipelines.tasks.base import Answer, Example, Task, text_field

class Pair(Task):
    name = "pair"
    version = "1"
    required = ("left", "right")
    shots = ()

    def read(self, row):
        if "gold" in row or "label" in row:
            raise AssertionError("an endpoint reads no gold label")
        left, right = text_field(row, "left"), text_field(row, "right")
        return Example(row["id"], f"left: {left} right: {right}", None)

    def parse(self, text, example):
        return Answer(self.normalise(text, example), "")

    def normalise(self, label, example):
        if label.lower() not in ("yes", "no"):
            raise UnparsableError("neither yes nor no")
        return label.lower()
"""
PROVENANCE = {"labels": {"prompt_version": "arithmetic/1/abc", "teacher": {"engine": "vllm", "model": "teacher-7b"}}}


def card(name: str, method: str = "step-by-step", task: TaskSpec | None = None) -> StudentCard:
    return StudentCard(
        name=name, folder=f"/students/{name}", method=method, family="encoder-decoder", parameters=1234,
        max_input_tokens=64, task=task or TaskSpec("arithmetic"), fingerprint="f" * 64, created_s=1_700_000_000,
        provenance=PROVENANCE,
    )  # fmt: skip


@dataclass
class FakeStudents:
    """Answers from a table; notes what it was asked."""

    labels: dict[str, str] = field(default_factory=dict)
    failure: ApiError | Exception | None = None
    asked: list[tuple[str, list[Question]]] = field(default_factory=list)

    async def ask(self, name: str, questions: Sequence[Question]) -> list[Reply | TooLong]:
        self.asked.append((name, list(questions)))
        if self.failure:
            raise self.failure
        return [self._answer(name, question) for question in questions]

    def _answer(self, name: str, question: Question) -> Reply | TooLong:
        if len(question.text) > 500:
            return TooLong(tokens=1234, limit=64)
        answer = Decoded(self.labels.get(question.text, "4 - 1"), 0.75, prompt_tokens=10, output_tokens=4)
        rationale = Decoded("because", 0.5, prompt_tokens=12, output_tokens=2)
        return Reply(answer, rationale if question.rationale and name != "texts" else None)


@pytest.fixture
def students() -> FakeStudents:
    return FakeStudents()


@pytest.fixture
def client(students: FakeStudents) -> TestClient:
    cards = [
        card("sums"),
        card("plain", method="finetune"),
        card("texts", method="rationale-then-label"),
        card("pairs", task=TaskSpec("pair.py", {}, PAIR_TASK)),
    ]
    app = create_app(cards, students.ask, Limits(max_inputs=4, max_body_bytes=10_000))
    return TestClient(app, raise_server_exceptions=False)


def predict(client: TestClient, **body: Any) -> Any:
    return client.post("/v1/predict", json=body)


def error_of(response: Any, status: int, code: str, param: str | None = None) -> str:
    """The message of an error response whose other parts are as stated."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error"}
    error = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["param"]) == (code, param)
    assert error["type"] == ("invalid_request_error" if status < 500 else "server_error")
    return str(error["message"])


def test_several_inputs_are_answered_in_order_with_usage(client: TestClient, students: FakeStudents) -> None:
    students.labels = {"one": "(1 + 1)", "two": "no idea"}
    response = predict(client, model="sums", inputs=["one", {"input": "two"}, "three"])
    assert response.status_code == 200
    assert response.json() == {
        "model": "sums",
        "predictions": [
            {"label": "1 + 1", "value": "2", "confidence": 0.75},
            {"label": "no idea", "confidence": 0.75},
            {"label": "4 - 1", "value": "3", "confidence": 0.75},
        ],
        "usage": {"prompt_tokens": 30, "completion_tokens": 12, "total_tokens": 42},
    }
    assert students.asked == [("sums", [Question("one"), Question("two"), Question("three")])]


def test_rationale_on_demand_counts_in_usage(client: TestClient) -> None:
    body = predict(client, model="sums", inputs=["one"], rationale=True).json()
    assert body["predictions"] == [{"label": "4 - 1", "value": "3", "confidence": 0.75, "rationale": "because"}]
    assert body["usage"] == {"prompt_tokens": 22, "completion_tokens": 6, "total_tokens": 28}


def test_a_text_of_rationale_and_label_is_taken_apart(client: TestClient, students: FakeStudents) -> None:
    students.labels = {"one": "Anne gives 1 away. The answer is (4 - 1).", "two": "no idea"}
    label = {"label": "4 - 1", "value": "3", "confidence": 0.75}
    assert predict(client, model="texts", inputs=["one"]).json()["predictions"] == [label]
    asked = predict(client, model="texts", inputs=["one", "two"], rationale=True).json()["predictions"]
    assert asked == [label | {"rationale": "Anne gives 1 away."}, {"label": "no idea", "confidence": 0.75}]


def test_task_fields_become_the_input_that_training_used(client: TestClient, students: FakeStudents) -> None:
    students.labels = {"left: a right: b": "YES"}
    fields = {"left": "a", "right": " b ", "gold": "no", "label": "no", "id": 7}
    body = predict(client, model="pairs", inputs=[fields]).json()
    assert body["predictions"] == [{"label": "yes", "confidence": 0.75}]
    assert students.asked == [("pairs", [Question("left: a right: b")])]


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"{not json", "invalid_json", None),
        (b"", "invalid_json", None),
        (b'{"inputs": ["\xff\xfe"]}', "invalid_json", None),
        (b'{"inputs": ["\\ud800"]}', "invalid_json", None),
        (b'{"inputs": ' + b"[" * 5000, "invalid_json", None),
        (b'["a"]', "invalid_request", None),
        (b'{"rationale": false}', "invalid_request", "inputs"),
        (b'{"inputs": "one"}', "invalid_request", "inputs"),
        (b'{"inputs": []}', "invalid_request", "inputs"),
        (b'{"inputs": ["one", 2]}', "invalid_request", "inputs[1]"),
        (b'{"inputs": ["one"], "rationale": "yes"}', "invalid_request", "rationale"),
        (b'{"inputs": ["one"], "model": 3}', "invalid_request", "model"),
        (b'{"inputs": ["one"], "modell": "sums"}', "invalid_request", "modell"),
        (b'{"inputs": ["one"]}', "model_required", "model"),
    ],
)
def test_bodies_that_are_no_request_get_400(
    client: TestClient, students: FakeStudents, body: bytes, code: str, param: str | None
) -> None:
    error_of(client.post("/v1/predict", content=body), 400, code, param)
    assert students.asked == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"left": "a"}, "inputs[1]: field `right` is missing or null, text is needed"),
        ({"left": "a", "right": ["b"]}, "inputs[1]: field `right` is a list, text is needed"),
        ({"left": "  ", "right": "b"}, "inputs[1]: field `left` is empty"),
        ("", "inputs[1]: field `input` is empty"),
        ("a\x00b", "inputs[1]: field `input` holds a NUL character"),
    ],
)
def test_task_fields_that_are_missing_or_invalid_get_422(
    client: TestClient, students: FakeStudents, given: Any, message: str
) -> None:
    response = predict(client, model="pairs", inputs=[{"left": "a", "right": "b"}, given])
    assert error_of(response, 422, "invalid_field", "inputs[1]") == message
    assert students.asked == []


def test_unknown_model_gets_404(client: TestClient) -> None:
    for name in ("nobody", "", "../sums", "SUMS"):
        message = error_of(predict(client, model=name, inputs=["one"]), 404, "model_not_found", "model")
        assert "sums, plain, texts, pairs" in message
    error_of(client.get("/v1/models/nobody"), 404, "model_not_found", "model")


def test_too_much_at_once_gets_413(client: TestClient, students: FakeStudents) -> None:
    message = error_of(predict(client, model="sums", inputs=["a"] * 5), 413, "too_many_inputs", "inputs")
    assert message == "5 inputs in one request, the limit is 4"
    error_of(predict(client, model="sums", inputs=["a" * 20_000]), 413, "body_too_large")
    chunks = (b"x" * 1000 for _ in range(20))
    error_of(client.post("/v1/predict", content=chunks), 413, "body_too_large")
    assert students.asked == []


def test_an_input_too_long_for_the_student_names_tokens_and_limit(client: TestClient) -> None:
    message = error_of(predict(client, model="sums", inputs=["a", "b" * 600]), 422, "input_too_long", "inputs[1]")
    assert message == "inputs[1] has 1,234 tokens, model sums reads at most 64"


def test_rationale_of_a_student_that_has_none_gets_422(client: TestClient) -> None:
    message = error_of(predict(client, model="plain", inputs=["a"], rationale=True), 422, "no_rationale", "rationale")
    assert message == "model plain was trained with method finetune, which teaches no rationales"
    assert predict(client, model="plain", inputs=["a"]).status_code == 200


def test_a_full_queue_says_when_to_come_back(client: TestClient, students: FakeStudents) -> None:
    students.failure = ApiError(503, "queue_full", "the queue of model sums is full", retry_after_s=2)
    response = predict(client, model="sums", inputs=["a"])
    error_of(response, 503, "queue_full")
    assert response.headers["retry-after"] == "2"


def test_a_bug_shows_nothing_of_itself(client: TestClient, students: FakeStudents) -> None:
    students.failure = RuntimeError("secret detail")
    message = error_of(predict(client, model="sums", inputs=["a"]), 500, "internal_error")
    assert "secret" not in message


def test_paths_and_methods_that_are_not_there(client: TestClient) -> None:
    error_of(client.get("/v1/nothing"), 404, "not_found")
    response = client.get("/v1/predict")
    error_of(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"


def test_the_only_student_needs_no_name(students: FakeStudents) -> None:
    client = TestClient(create_app([card("sums")], students.ask, Limits(4, 1000)))
    assert predict(client, inputs=["one"]).json()["model"] == "sums"


def test_models_carry_provenance(client: TestClient) -> None:
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["sums", "plain", "texts", "pairs"]
    first = listed["data"][0]
    assert (first["object"], first["created"], first["owned_by"]) == ("model", 1_700_000_000, "raystill")
    assert (first["task"], first["method"], first["parameters"]) == ("arithmetic", "step-by-step", 1234)
    assert (first["fingerprint"], first["provenance"]) == ("f" * 64, PROVENANCE)
    assert client.get("/v1/models/sums").json() == first


def test_health(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}


def test_openapi_describes_the_request(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    operation = document["paths"]["/v1/predict"]["post"]
    properties = operation["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert set(properties) == {"inputs", "rationale", "model"}
    assert json.dumps(operation["responses"]["200"]).endswith('PredictResponse"}}}}')
