"""The HTTP API without Ray: statuses and bodies. Fake students answer from a table."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from fastapi.testclient import TestClient

from pipelines.config.serving import KeysConfig, LimitsConfig, ServingConfig
from pipelines.students.decoding import Decoded
from pipelines.tasks import Example
from pipelines.tasks.arithmetic import Arithmetic
from pipelines.tasks.base import TaskSpec
from serving.api import routes
from serving.api.errors import ApiError
from serving.api.predict import Prediction, PredictRequest, build_response, read_inputs
from serving.messages import Failed, Question, Reply, TooLong
from tests.support.asgi import error_of, post
from tests.support.fake_students import PAIR_TASK, FakeStudents, app_of, card, client_of

PROVENANCE = {"labels": {"prompt_version": "arithmetic/1/abc", "teacher": {"engine": "vllm", "model": "teacher-7b"}}}
SETTINGS = ServingConfig(limits=LimitsConfig(inputs=4, body_bytes=10_000))


@pytest.fixture
def students() -> FakeStudents:
    return FakeStudents()


@pytest.fixture
def client(students: FakeStudents) -> TestClient:
    cards = [
        card("sums", provenance=PROVENANCE),
        card("plain", method="finetune"),
        card("texts", method="rationale-then-label"),
    ]
    return client_of([*cards, card("pairs", task=TaskSpec("pair.py", {}, PAIR_TASK))], students, SETTINGS)


def predict(client: TestClient, **body: Any) -> Any:
    return client.post("/v1/predict", json=body)


def test_inputs_are_answered_in_order_with_usage(client: TestClient, students: FakeStudents) -> None:
    students.labels = {"one": "(1 + 1)", "two": "no idea"}
    response = predict(client, model="sums", inputs=["one", {"input": "two"}, "three"])
    assert response.status_code == 200
    assert response.json() == {
        "model": "sums",
        "predictions": [
            {"label": "1 + 1", "value": "2", "confidence": 0.75, "readable": True},
            {"label": "no idea", "confidence": 0.75, "readable": False},
            {"label": "4 - 1", "value": "3", "confidence": 0.75, "readable": True},
        ],
        "usage": {"prompt_tokens": 30, "completion_tokens": 12, "total_tokens": 42},
    }
    assert students.questions == [("sums", [Question("one"), Question("two"), Question("three")])]


def test_a_requested_rationale_counts_in_usage(client: TestClient, students: FakeStudents) -> None:
    label = {"label": "4 - 1", "value": "3", "confidence": 0.75, "readable": True}
    body = predict(client, model="sums", inputs=["one"], rationale=True).json()
    assert body["predictions"] == [label | {"rationale": "because"}]
    assert body["usage"] == {"prompt_tokens": 22, "completion_tokens": 6, "total_tokens": 28}
    students.labels = {"one": "Anne gives 1 away. The answer is (4 - 1).", "two": "no idea"}
    assert predict(client, model="texts", inputs=["one"]).json()["predictions"] == [label]
    unreadable = {"label": "no idea", "confidence": 0.75, "readable": False}
    found = predict(client, model="texts", inputs=["one", "two"], rationale=True).json()["predictions"]
    assert found == [label | {"rationale": "Anne gives 1 away."}, unreadable]


def test_a_question_carries_its_closed_label_set(students: FakeStudents) -> None:
    choice, nli = TaskSpec("multiple-choice"), card("nli", task=TaskSpec("nli"))
    cards = [card("choices", task=choice), card("texts", task=choice, method="rationale-then-label"), nli]
    client = client_of(cards, students, SETTINGS)
    assert predict(client_of([nli], students), inputs=["a"]).json()["model"] == "nli", "the only one needs no name"
    students.questions.clear()
    fields = {"question": "Where?", "choices": ["river", "sea"]}
    for name in ("choices", "texts"):
        assert predict(client, model=name, inputs=[fields, "Where?"]).status_code == 200
    assert predict(client, model="nli", inputs=["premise: a hypothesis: b"]).status_code == 200
    assert [[question.labels for question in questions] for _, questions in students.questions] == [
        [("river", "sea"), ()],
        [tuple(f"It is so. So the answer is {choice}." for choice in ("river", "sea")), ()],
        [("entailment", "neutral", "contradiction")],
    ]


def test_a_constrained_endpoint_needs_the_choices(students: FakeStudents) -> None:
    client = client_of([card("choices", task=TaskSpec("multiple-choice"))], students, ServingConfig(constrained=True))
    assert predict(client, inputs=[{"question": "Where?", "choices": ["sea", "river"]}]).status_code == 200
    error = error_of(predict(client, inputs=["Where?"]), 422, "no_label_set", "inputs[0]")
    assert "names no labels to choose from" in error
    assert client.get("/v1/models").json()["data"][0]["constrained"] is True


def test_task_fields_become_the_input_of_training(client: TestClient, students: FakeStudents) -> None:
    students.labels = {"left: a right: b": "YES"}
    fields = {"left": "a", "right": " b ", "gold": "no", "label": "no", "id": 7}
    body = predict(client, model="pairs", inputs=[fields]).json()
    assert body["predictions"] == [{"label": "yes", "confidence": 0.75, "readable": True}]
    assert students.questions == [("pairs", [Question("left: a right: b")])]


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "PUT", "CONNECT", "PROPFIND"])
def test_other_paths_and_methods_are_refused(client: TestClient, method: str) -> None:
    for path in ("/", "/healthz", "/v1/predict", "/v1/models"):
        assert client.request(method, path).status_code == 405
    long = client.request(method, "/" + "a" * 20_000)
    assert (long.status_code, len(long.content) < 1000) == (404, True)
    error_of(client.get("/v1/nothing"), 404, "not_found")
    error_of(response := client.get("/v1/predict"), 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("body", "status", "code", "param", "message"),
    [
        *[
            ({"model": "pairs", "inputs": [given]}, 422, "invalid_field", "inputs[0]", f"field {rule}")
            for given, rule in [
                ({"left": "a"}, "`right` is missing or null"), ({"left": "a", "right": ["b"]}, "`right` is a list, must be text"),
                ({"left": "  ", "right": "b"}, "`left` is empty"), ("", "`input` is empty"), ("a\x00b", "`input` holds a NUL character"),
            ]
        ],
        *[
            ({"model": name, "inputs": ["one"]}, 404, "model_not_found", "model", "the models are: sums, plain, texts, pairs")
            for name in ("nobody", "", "../sums", "SUMS")
        ],
        ({"inputs": ["one"]}, 400, "model_required", "model", "name one of the models: sums, plain"),
        ({"model": "sums", "inputs": ["a"] * 5}, 413, "too_many_inputs", "inputs", "5 inputs in one request, the limit is 4"),
        ({"model": "sums", "inputs": ["a" * 20_000]}, 413, "body_too_large", None, "larger than 10,000 bytes"),
        ({"model": "plain", "inputs": ["a"], "rationale": True}, 422, "no_rationale", "rationale", "finetune, which teaches no rationales"),
    ],
)  # fmt: skip
def test_an_impossible_request_is_refused(
    client: TestClient, students: FakeStudents, body: Any, status: int, code: str, param: str | None, message: str
) -> None:
    assert message in error_of(predict(client, **body), status, code, param)
    assert students.questions == []


def test_a_bad_input_costs_only_its_own_answer(client: TestClient, students: FakeStudents) -> None:
    """The status is that of the answered inputs. If none is answered, it is that of the first error."""
    pair = {"left": "a", "right": "b"}
    response = predict(client, model="pairs", inputs=[{"left": "a"}, pair, "b" * 600, "b" * 3000])
    assert response.status_code == 200
    body = response.json()
    assert [prediction.get("label") for prediction in body["predictions"]] == [None, "4 - 1", None, None]
    assert body["failed"] == 3
    errors = [prediction["error"] for prediction in body["predictions"] if "error" in prediction]
    codes = {"inputs[0]": "invalid_field", "inputs[2]": "input_too_long", "inputs[3]": "input_too_long"}
    assert {error["param"]: error["code"] for error in errors} == codes
    assert errors[2]["message"].startswith("inputs[3] has 3,000 characters, the limit is 2,048")
    assert [question.text for _, sent in students.questions for question in sent] == ["left: a right: b", "b" * 600]
    assert body["usage"]["prompt_tokens"] == 10
    error_of(predict(client, model="pairs", inputs=[{"left": "a"}, "b" * 600]), 422, "invalid_field", "inputs[0]")
    assert "failed" not in predict(client, model="pairs", inputs=[pair]).json()


def test_an_input_that_failed_in_the_engine_has_an_error(client: TestClient, students: FakeStudents) -> None:
    students.failed = {"a": Failed(), "b": Failed(kills=True), "d": TooLong(41, 32, written=True)}
    body = predict(client, model="sums", inputs=["a", "b", "c"]).json()
    codes = [prediction.get("error", {}).get("code") for prediction in body["predictions"]]
    assert codes == ["internal_error", "input_refused", None]
    error_of(predict(client, model="sums", inputs=["b"]), 422, "input_refused", "inputs[0]")
    error_of(predict(client, model="sums", inputs=["a"]), 500, "internal_error", "inputs[0]")
    too_long = error_of(predict(client, model="sums", inputs=["d"]), 422, "input_too_long", "inputs[0]")
    assert too_long == "inputs[0] has a choice of 41 tokens, model sums writes at most 32"
    refused = client.post("/v1/completions", json={"model": "sums", "prompt": ["c", "b"]})
    error_of(refused, 422, "input_refused", "prompt[1]")


def test_large_requests_are_bulk(students: FakeStudents, monkeypatch: pytest.MonkeyPatch) -> None:
    client = client_of([card("sums")], students)
    for body in ({"inputs": ["a"] * 8}, {"inputs": ["a"] * 9}, {"inputs": ["a"], "priority": "bulk"}):
        assert predict(client, **body).status_code == 200
    assert [questions[0].bulk for _, questions in students.questions] == [False, True, True]
    for more in ({}, {"priority": "bulk"}):
        chat = {"messages": [{"role": "user", "content": "a"}], **more}
        assert client.post("/v1/chat/completions", json=chat).status_code == 200
    assert client.post("/v1/completions", json={"prompt": ["a"] * 9}).status_code == 200
    assert [request.bulk for _, request in students.requests] == [False, True, *[True] * 9]
    assert set(students.clients) == {"address testclient"}
    error_of(predict(client, inputs=["a"], priority="high"), 400, "invalid_request", "priority")
    monkeypatch.setenv("KEYS", "team=abc")
    keyed = client_of([card("sums")], students, ServingConfig(keys=KeysConfig(variable="KEYS", tokens_per_minute=20)))
    keyed.headers["authorization"] = "Bearer abc"
    assert [predict(keyed, inputs=["a"]).status_code for _ in range(3)] == [200, 200, 429]
    assert students.clients[-1] == "key team"


def test_errors_of_the_students_reach_the_client(client: TestClient, students: FakeStudents) -> None:
    message = error_of(predict(client, model="sums", inputs=["b" * 600]), 422, "input_too_long", "inputs[0]")
    assert message == "inputs[0] has 1,234 tokens, model sums reads at most 64"
    students.failure = ApiError(503, "queue_full", "the queue of model sums is full", retry_after_s=2)
    response = predict(client, model="sums", inputs=["a"])
    error_of(response, 503, "queue_full")
    assert 2 <= int(response.headers["retry-after"]) <= 4
    students.failure = RuntimeError("secret detail")
    assert "secret" not in error_of(predict(client, model="sums", inputs=["a"]), 500, "internal_error")


def test_an_unreadable_student_gets_503_and_not_404(students: FakeStudents) -> None:
    """After a 404 clients would give it up."""
    unavailable = {"gone": "/students/gone: the folder does not exist"}
    client = client_of([card("sums")], students, SETTINGS, unavailable=unavailable)
    for response in (predict(client, model="gone", inputs=["one"]), client.get("/v1/models/gone")):
        message = error_of(response, 503, "model_away")
        assert "model gone is unavailable: its folder cannot be read, or no engine runs it" in message
        assert "/students" not in message
        assert int(response.headers["retry-after"]) >= 1
    assert predict(client, model="sums", inputs=["one"]).status_code == 200
    error_of(client.get("/v1/models/nobody"), 404, "model_not_found", "model")
    assert "sums, gone" in error_of(predict(client, model="nobody", inputs=["one"]), 404, "model_not_found", "model")
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["sums"]


def test_a_large_body_gets_413_before_it_is_read(client: TestClient, students: FakeStudents) -> None:
    for declared in ("10001", "9" * 5000):
        error_of(client.post("/v1/predict", headers={"content-length": declared}), 413, "body_too_large")
    chunks = (b"x" * 1000 for _ in range(20))
    error_of(client.post("/v1/predict", content=chunks), 413, "body_too_large")
    assert students.questions == []


@pytest.mark.parametrize(("body_s", "request_s"), [(0.05, 60.0), (60.0, 0.05)])
def test_a_body_that_does_not_arrive_gets_408(
    students: FakeStudents, monkeypatch: pytest.MonkeyPatch, body_s: float, request_s: float
) -> None:
    """The shorter limit counts: meanwhile the request occupies one of the ingress' places."""
    assert routes._BODY_TIMEOUT_S == 10.0
    monkeypatch.setattr(routes, "_BODY_TIMEOUT_S", body_s)
    app = app_of([card("sums")], students, ServingConfig(request_timeout_s=request_s))
    begun = {"type": "http.request", "body": b'{"inputs"', "more_body": True}
    assert asyncio.run(post(app, [begun])) == (408, "body_timeout")
    assert asyncio.run(post(app, [begun, {"type": "http.disconnect"}])) == (400, "client_away")


def test_a_key_is_checked_before_the_body_is_read(students: FakeStudents, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client without a key must not occupy the ingress with its body."""
    monkeypatch.setenv("KEYS", "team=abc")
    app = app_of([card("sums")], students, ServingConfig(keys=KeysConfig(variable="KEYS")))
    assert asyncio.run(post(app, [])) == (401, "missing_key")
    headers = ((b"authorization", b"Bearer x"), (b"content-length", b"9" * 9))
    assert asyncio.run(post(app, [], *headers)) == (401, "invalid_key")


def test_models_show_provenance_and_engine(client: TestClient, students: FakeStudents) -> None:
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["sums", "plain", "texts", "pairs"]
    first = listed["data"][0]
    assert (first["object"], first["created"], first["owned_by"]) == ("model", 1_700_000_000, "raystill")
    assert (first["task"], first["method"], first["parameters"]) == ("arithmetic", "step-by-step", 1234)
    assert (first["fingerprint"], first["content"], first["provenance"]) == ("f" * 64, "c" * 64, PROVENANCE)
    placed = {"labels": {"teacher": {"model": "/home/me/models/teacher-7b/"}, "corpora": ["/data/a.jsonl", "a/b"]}}
    shown = client_of([card("placed", provenance=placed)], students).get("/v1/models/placed").json()["provenance"]
    assert shown == {"labels": {"teacher": {"model": "teacher-7b"}, "corpora": ["a.jsonl", "a/b"]}}
    assert client.get("/v1/models/sums").json() == first
    # The engine of the settings until another one has answered: vLLM has a fallback.
    assert first["engine"] == "ctranslate2"
    students.engines = {"sums": "transformers"}
    assert client.get("/v1/models/sums").json()["engine"] == "transformers"


def test_readiness_and_health(students: FakeStudents) -> None:
    client = client_of([card("sums")], students)
    assert client.get("/readyz").json() == {"status": "ready"}
    students.able = False
    response = client.get("/readyz")
    assert (response.status_code, response.json()) == (503, {"status": "failing"})
    assert client_of([], students).get("/readyz").json() == {"status": "starting"}
    assert client.get("/healthz").json() == {"status": "ok"}


def test_an_error_of_a_task_file_costs_its_own_answer() -> None:
    """A task file reads gold. What fails on a student's answer leaves its text; what fails on an input is the client's error."""

    class Own(Arithmetic):
        def read(self, row: Mapping[str, Any]) -> Example:
            return Example(str(row["id"]), row["text"], row["gold"])

        def label_set(self, example: Example) -> tuple[str, ...]:
            return (str(1 / (example.input != "broken")),)

        def normalise(self, label: str, example: Example) -> str:
            return {"1": "one", "2": "two", "3": None}[label]  # type: ignore[return-value]

        def value(self, label: str) -> str:
            return {"one": "1"}[label]

    inputs = [*[{"text": text, "gold": "secret"} for text in "abcd"], {"other": "two"}, {"text": 5}, {"text": "broken"}]
    read = read_inputs(PredictRequest.model_validate({"inputs": inputs}), card("sums"), Own(), 9, ServingConfig())
    assert read.examples[0] == Example("inputs[0]", "a", None)
    kinds = {4: "KeyError", 5: "TypeError", 6: "ZeroDivisionError"}
    found = {i: (error.status_code, str(error.detail)) for i, error in read.errors.items()}
    assert found == {i: (422, f"inputs[{i}]: task arithmetic cannot read it ({kind})") for i, kind in kinds.items()}
    replies = [Reply(Decoded(text, 0.5, 1, 1)) for text in "1234"]
    answered = build_response(card("sums"), Own(), read, replies, rationale=False).predictions[:4]
    assert [(p.label, p.value, p.readable) for p in answered if isinstance(p, Prediction)] == [
        ("one", "1", True), ("two", None, True), ("3", None, False), ("4", None, False)
    ]  # fmt: skip
