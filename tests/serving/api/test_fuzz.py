"""schemathesis compares the application with its OpenAPI document: valid and invalid requests, with and without keys."""

from collections import Counter
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    response_schema_conformance,
    status_code_conformance,
)

from pipelines.config.serving import KeysConfig, LimitsConfig, ServingConfig
from tests.support.fake_students import FakeStudents, app_of, card

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
ANSWERS: Counter[tuple[str, int]] = Counter()
STREAMS: Counter[str] = Counter()
LOCKED: Counter[tuple[str, int]] = Counter()
PATHS = {
    "predict": "/v1/predict", "completions": "/v1/completions", "chat": "/v1/chat/completions", "model": "/v1/models/{name}",
    "models": "/v1/models", "readyz": "/readyz", "healthz": "/healthz",
}  # fmt: skip
FUZZ = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
SETTINGS = ServingConfig(limits=LimitsConfig(inputs=4, body_bytes=10_000, input_characters=500), allowed_hosts=["*"])


KEY = "abc"


def locked_app() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KEYS", f"team={KEY}")
        return app_of([card("sums")], FakeStudents(), SETTINGS.model_copy(update={"keys": KeysConfig(variable="KEYS")}))


schema = schemathesis.openapi.from_asgi("/openapi.json", app_of([card("sums")], FakeStudents(), SETTINGS))
locked = schemathesis.openapi.from_asgi("/openapi.json", locked_app())


@schema.hook  # type: ignore[untyped-decorator]
def map_body(context: Any, body: Any) -> Any:
    """Half of the requests name a student. Its streams are possible, and its chats have one user message: by chance few would."""
    if isinstance(body, dict) and (size := len(repr(body))) % 2 == 0:
        texts = {"prompt": "one", "messages": [{"role": "user", "content": "one"}]}
        given = {key: text for key, text in texts.items() if key in body}
        if given and size % 4 == 0:
            return {"model": "sums", "stream": True, **given}
        messages = body.get("messages")
        if isinstance(messages, list) and messages and isinstance(messages[-1], dict):
            return {**body, "model": "sums", "messages": [{**messages[-1], "role": "user"}]}
        return {**body, "model": "sums"}
    return body


def open_test(path: str) -> Any:
    """A test of one path. One of all paths would be as many tests with the same name."""

    @schema.include(path=path).parametrize()
    # Enough for more than ten answers with 200, whatever modules are loaded: hypothesis draws from their texts too.
    @settings(FUZZ, max_examples=200)
    def test(case: Any) -> None:
        response = case.call()
        case.validate_response(response, checks=CHECKS)
        ANSWERS[case.path, response.status_code] += 1
        STREAMS[case.path] += response.headers["content-type"][0].startswith("text/event-stream")

    return test


def locked_test(path: str) -> Any:
    """As `open_test`. Half of the requests have the key; schemathesis makes the headers of the others from the document."""

    @locked.include(path=path).parametrize()
    @settings(FUZZ, max_examples=30)
    def test(case: Any) -> None:
        if case.body is not None and len(repr(case.body)) % 2:
            case.headers["Authorization"] = f"Bearer {KEY}"
        response = case.call()
        case.validate_response(response, checks=[*CHECKS, ignored_auth])
        LOCKED[case.path, response.status_code] += 1

    return test


for name, path in PATHS.items():
    globals()[f"test_{name}_answers_as_documented"] = open_test(path)
    globals()[f"test_{name}_with_keys_answers_as_documented"] = locked_test(path)


def test_every_path_was_called_with_many_outcomes() -> None:
    assert sorted(schema.raw_schema["paths"]) == sorted(PATHS.values())
    for path in ("/v1/predict", "/v1/completions", "/v1/chat/completions"):
        assert {200, 400, 404, 422} <= {status for called, status in ANSWERS if called == path}, ANSWERS
        assert ANSWERS[path, 200] > 10, ANSWERS
    assert STREAMS["/v1/completions"] > 0, STREAMS
    assert STREAMS["/v1/chat/completions"] > 0, STREAMS
    assert all((path, 401) in LOCKED for path, _ in LOCKED if path.startswith("/v1/")), LOCKED
    assert any(status == 200 for path, status in LOCKED if path.startswith("/v1/")), LOCKED
