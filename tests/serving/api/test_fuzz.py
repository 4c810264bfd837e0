"""The OpenAPI document against the application: requests that it allows and requests that it does not, made by schemathesis."""

from __future__ import annotations

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
from tests.support.fake_students import Standins, app_of, card

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
ANSWERS: Counter[tuple[str, int]] = Counter()
STREAMS: Counter[str] = Counter()
PATHS = (
    "/v1/predict", "/v1/completions", "/v1/chat/completions", "/v1/models/{name}", "/v1/models", "/readyz", "/healthz"
)  # fmt: skip
FUZZ = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
SETTINGS = ServingConfig(limits=LimitsConfig(inputs=4, body_bytes=10_000, input_characters=500))


schema = schemathesis.openapi.from_asgi("/openapi.json", app_of([card("sums")], Standins(), SETTINGS))


@schema.hook  # type: ignore[untyped-decorator]
def map_body(context: Any, body: Any) -> Any:
    """Half of the names are those of a student: by chance alone none would be."""
    if isinstance(body, dict) and isinstance(body.get("model"), str) and len(body["model"]) % 2 == 0:
        return {**body, "model": "sums"}
    return body


def answered_as_documented(path: str) -> Any:
    """A test of a path's answers. One of all paths would be as many tests with the same name."""

    @schema.include(path=path).parametrize()
    # So many that more than ten are answered whatever modules are loaded, from whose texts hypothesis draws too.
    @settings(FUZZ, max_examples=500)
    def test(case: Any) -> None:
        response = case.call()
        case.validate_response(response, checks=CHECKS)
        assert "x-request-id" in response.headers
        ANSWERS[case.path, response.status_code] += 1
        STREAMS[case.path] += response.headers["content-type"][0].startswith("text/event-stream")

    return test


test_predict, test_completions, test_chat, test_model, test_models, test_readyz, test_healthz = map(
    answered_as_documented, PATHS
)


def test_every_path_is_asked() -> None:
    assert sorted(schema.raw_schema["paths"]) == sorted(PATHS)


def test_the_answers_were_of_many_kinds() -> None:
    """What was made above reaches the students, and what stands before them."""
    print(ANSWERS)
    for path in ("/v1/predict", "/v1/completions", "/v1/chat/completions"):
        assert {200, 400, 404, 422} <= {status for asked, status in ANSWERS if asked == path}, ANSWERS
        assert ANSWERS[path, 200] > 10, ANSWERS
    assert STREAMS["/v1/completions"] > 0, STREAMS
    assert STREAMS["/v1/chat/completions"] > 0, STREAMS


KEY = "abc"
LOCKED: Counter[tuple[str, int]] = Counter()


def locked_app() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KEYS", f"team={KEY}")
        return app_of([card("sums")], Standins(), SETTINGS.model_copy(update={"keys": KeysConfig(variable="KEYS")}))


locked = schemathesis.openapi.from_asgi("/openapi.json", locked_app())


def locked_as_documented(path: str) -> Any:
    """As `answered_as_documented`. Half of the requests have the key; the document's security is what schemathesis makes the headers of the
    others from."""

    @locked.include(path=path).parametrize()
    @settings(FUZZ, max_examples=30)
    def test(case: Any) -> None:
        if case.body is not None and len(repr(case.body)) % 2:
            case.headers["Authorization"] = f"Bearer {KEY}"
        response = case.call()
        case.validate_response(response, checks=[*CHECKS, ignored_auth])
        LOCKED[case.path, response.status_code] += 1

    return test


(
    test_locked_predict, test_locked_completions, test_locked_chat, test_locked_model, test_locked_models, test_locked_readyz,
    test_locked_healthz,
) = map(locked_as_documented, PATHS)  # fmt: skip


def test_keys_were_asked_for() -> None:
    assert all((path, 401) in LOCKED for path, _ in LOCKED if path.startswith("/v1/")), LOCKED
    assert any(status == 200 for path, status in LOCKED if path.startswith("/v1/")), LOCKED
