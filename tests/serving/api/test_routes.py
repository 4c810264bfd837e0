"""The HTTP side without Ray: a student that answers from a table sits behind it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from fastapi.testclient import TestClient

from pipelines.config.serving import KeysConfig, LimitsConfig, ServingConfig
from pipelines.tasks.base import TaskSpec
from serving.api import routes
from serving.api.errors import ApiError
from serving.messages import Question
from serving.model_card import StudentCard
from tests.support.fake_students import Standins, card, client_of

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
SETTINGS = ServingConfig(limits=LimitsConfig(inputs=4, body_bytes=10_000))


def all_cards() -> list[StudentCard]:
    return [
        card("sums", provenance=PROVENANCE),
        card("plain", method="finetune"),
        card("texts", method="rationale-then-label"),
        card("pairs", task=TaskSpec("pair.py", {}, PAIR_TASK)),
    ]


@pytest.fixture
def students() -> Standins:
    return Standins()


@pytest.fixture
def client(students: Standins) -> TestClient:
    return client_of(all_cards(), students, SETTINGS)


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


def test_several_inputs_are_answered_in_order_with_usage(client: TestClient, students: Standins) -> None:
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


def test_a_text_of_rationale_and_label_is_taken_apart(client: TestClient, students: Standins) -> None:
    students.labels = {"one": "Anne gives 1 away. The answer is (4 - 1).", "two": "no idea"}
    label = {"label": "4 - 1", "value": "3", "confidence": 0.75}
    assert predict(client, model="texts", inputs=["one"]).json()["predictions"] == [label]
    asked = predict(client, model="texts", inputs=["one", "two"], rationale=True).json()["predictions"]
    assert asked == [label | {"rationale": "Anne gives 1 away."}, {"label": "no idea", "confidence": 0.75}]


def test_a_question_has_the_labels_that_may_be_its_answer() -> None:
    students, choice = Standins(), TaskSpec("multiple-choice")
    cards = [
        card("choices", task=choice),
        card("texts", task=choice, method="rationale-then-label"),
        card("nli", task=TaskSpec("nli")),
    ]
    client = client_of(cards, students, SETTINGS)
    fields = {"question": "Where?", "choices": ["river", "sea"]}
    for name in ("choices", "texts"):
        assert predict(client, model=name, inputs=[fields, "Where?"]).status_code == 200
    assert predict(client, model="nli", inputs=["premise: a hypothesis: b"]).status_code == 200
    assert [[question.labels for question in questions] for _, questions in students.asked] == [
        [("river", "sea"), ()],
        [tuple(f"It is so. So the answer is {choice}." for choice in ("river", "sea")), ()],
        [("entailment", "neutral", "contradiction")],
    ]


def test_task_fields_become_the_input_that_training_used(client: TestClient, students: Standins) -> None:
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
    client: TestClient, students: Standins, body: bytes, code: str, param: str | None
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
    client: TestClient, students: Standins, given: Any, message: str
) -> None:
    response = predict(client, model="pairs", inputs=[{"left": "a", "right": "b"}, given])
    assert error_of(response, 422, "invalid_field", "inputs[1]") == message
    assert students.asked == []


def test_unknown_model_gets_404(client: TestClient) -> None:
    for name in ("nobody", "", "../sums", "SUMS"):
        message = error_of(predict(client, model=name, inputs=["one"]), 404, "model_not_found", "model")
        assert "sums, plain, texts, pairs" in message
    error_of(client.get("/v1/models/nobody"), 404, "model_not_found", "model")


def test_a_student_whose_folder_cannot_be_read_is_away(students: Standins) -> None:
    """It is one that there is: 404 would tell clients to give it up."""
    client = client_of([card("sums")], students, SETTINGS, away={"gone": "/students/gone: there is no such folder"})
    for response in (predict(client, model="gone", inputs=["one"]), client.get("/v1/models/gone")):
        message = error_of(response, 503, "model_away")
        assert "model gone is away: its folder cannot be read" in message
        assert "/students" not in message
        assert int(response.headers["retry-after"]) >= 1
    assert predict(client, model="sums", inputs=["one"]).status_code == 200
    assert "sums, gone" in error_of(predict(client, model="nobody", inputs=["one"]), 404, "model_not_found", "model")
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["sums"]


def test_too_much_at_once_gets_413(client: TestClient, students: Standins) -> None:
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


def test_a_full_queue_says_when_to_come_back(client: TestClient, students: Standins) -> None:
    students.failure = ApiError(503, "queue_full", "the queue of model sums is full", retry_after_s=2)
    response = predict(client, model="sums", inputs=["a"])
    error_of(response, 503, "queue_full")
    assert response.headers["retry-after"] == "2"


def test_a_bug_shows_nothing_of_itself(client: TestClient, students: Standins) -> None:
    students.failure = RuntimeError("secret detail")
    message = error_of(predict(client, model="sums", inputs=["a"]), 500, "internal_error")
    assert "secret" not in message


def test_paths_and_methods_that_are_not_there(client: TestClient) -> None:
    error_of(client.get("/v1/nothing"), 404, "not_found")
    response = client.get("/v1/predict")
    error_of(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"


def test_the_only_student_needs_no_name(students: Standins) -> None:
    client = client_of([card("sums")], students, SETTINGS)
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


def test_models_name_the_engine_that_answers(client: TestClient, students: Standins) -> None:
    """What the settings name until one has answered: vLLM may be replaced where it does not know the architecture."""
    assert client.get("/v1/models/sums").json()["engine"] == "ctranslate2"
    students.engines = {"sums": "transformers"}
    assert client.get("/v1/models/sums").json()["engine"] == "transformers"


def test_a_body_that_does_not_come_holds_its_place_for_seconds(
    students: Standins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for as long as an answer may take."""
    limits: list[float] = []

    async def read(request: Any, max_bytes: int, timeout_s: float) -> bytes:
        limits.append(timeout_s)
        return b'{"inputs": ["one"]}'

    monkeypatch.setattr(routes, "read_body", read)
    for seconds in (120.0, 5.0):
        predict(client_of([card("sums")], students, ServingConfig(request_timeout_s=seconds)))
    assert limits == [10.0, 5.0]


def test_health(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}


def test_openapi_describes_the_requests(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    assert set(schemas["PredictRequest"]["properties"]) == {"inputs", "rationale", "model"}
    for path, name in [
        ("predict", "PredictRequest"),
        ("completions", "CompletionRequest"),
        ("chat/completions", "ChatRequest"),
    ]:
        operation = document["paths"][f"/v1/{path}"]["post"]
        body = operation["requestBody"]["content"]["application/json"]
        assert body["schema"] == {"$ref": f"#/components/schemas/{name}"}
        assert client.post(f"/v1/{path}", json={**body["example"], "model": "sums"}).status_code == 200
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert references <= set(schemas), "a reference leads nowhere"
    confidence = schemas["Prediction"]["properties"]["confidence"]["description"]
    assert "each token's is renormalised" in confidence


def test_openapi_describes_the_answers(client: TestClient) -> None:
    """With examples that are such answers. That answers are as their schemas say: test_fuzz.py."""
    document = client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    for path, method, name in [
        ("predict", "post", "PredictResponse"),
        ("completions", "post", "Completion"),
        ("chat/completions", "post", "ChatCompletion"),
        ("models", "get", "ModelList"),
        ("models/{name}", "get", "Model"),
    ]:
        content = document["paths"][f"/v1/{path}"][method]["responses"]["200"]["content"]
        answer = content["application/json"]
        assert answer["schema"] == {"$ref": f"#/components/schemas/{name}"}
        assert set(schemas[name]["required"]) <= set(answer["example"]) <= set(schemas[name]["properties"])
        assert ("text/event-stream" in content) == ("completions" in path)
    stream = document["paths"]["/v1/completions"]["post"]["responses"]["200"]["content"]["text/event-stream"]
    asked = {"model": "sums", "prompt": "one", "stream": True}
    first, *_, last = client.post("/v1/completions", json=asked).text.strip().split("\n\n")
    example, end = stream["example"].strip().split("\n\n")
    assert last == end == "data: [DONE]"
    assert set(json.loads(first.removeprefix("data: "))) == set(json.loads(example.removeprefix("data: ")))


@pytest.mark.parametrize(("keys", "security"), [({}, [{}, {"key": []}]), ({"variable": "KEYS"}, [{"key": []}])])
def test_openapi_says_which_routes_need_a_key(
    students: Standins, monkeypatch: pytest.MonkeyPatch, keys: dict[str, Any], security: Any
) -> None:
    monkeypatch.setenv("KEYS", "team=abc")
    client = client_of([card("sums")], students, ServingConfig(keys=KeysConfig(**keys)))
    document = client.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation.get("security") == (security if path.startswith("/v1/") else None), path
            if path.startswith("/v1/"):
                assert {"401", "429"} <= set(operation["responses"])
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"


def test_request_ids_come_back(client: TestClient) -> None:
    assert client.get("/healthz", headers={"x-request-id": "abc-1.2_3"}).headers["x-request-id"] == "abc-1.2_3"
    for hostile in ("a b", "x" * 65, "<script>", ""):
        made = client.get("/healthz", headers={"x-request-id": hostile}).headers["x-request-id"]
        assert re.fullmatch(r"[0-9a-f]{32}", made)
