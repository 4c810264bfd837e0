"""The OpenAPI document of an endpoint."""

import importlib.metadata
import json
import re
from typing import Any

import pytest

from pipelines.config.serving import KeysConfig, ServingConfig
from tests.support.fake_students import FakeStudents, card, client_of


def test_openapi_describes_requests_and_answers() -> None:
    client = client_of([card("sums")], FakeStudents())
    document = client.get("/openapi.json").json()
    assert document["info"]["version"] == importlib.metadata.version("raystill")
    schemas = document["components"]["schemas"]
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert references <= set(schemas)
    confidence = schemas["Prediction"]["properties"]["confidence"]["description"]
    assert "each token's probability is renormalised" in confidence
    for path, request, answer in [
        ("predict", "PredictRequest", "PredictResponse"),
        ("completions", "CompletionRequest", "Completion"),
        ("chat/completions", "ChatRequest", "ChatCompletion"),
        ("models", None, "ModelList"),
        ("models/{name}", None, "Model"),
    ]:
        operation = document["paths"][f"/v1/{path}"]["post" if request else "get"]
        content = operation["responses"]["200"]["content"]
        assert content["application/json"]["schema"] == {"$ref": f"#/components/schemas/{answer}"}
        assert ("text/event-stream" in content) == ("completions" in path)
        if request:
            body = operation["requestBody"]["content"]["application/json"]
            assert body["schema"] == {"$ref": f"#/components/schemas/{request}"}
            (example,) = schemas[request]["examples"]
            assert client.post(f"/v1/{path}", json={**example, "model": "sums"}).status_code == 200


@pytest.mark.parametrize(("keys", "security"), [({}, None), ({"variable": "KEYS"}, [{"key": []}])])
def test_openapi_shows_which_routes_need_a_key(monkeypatch: pytest.MonkeyPatch, keys: Any, security: Any) -> None:
    monkeypatch.setenv("KEYS", "team=abc")
    client = client_of([card("sums")], FakeStudents(), ServingConfig(keys=KeysConfig(**keys)))
    document = client.get("/openapi.json").json()
    for path, operation in ((path, one) for path, several in document["paths"].items() for one in several.values()):
        assert operation.get("security") == (security if path.startswith("/v1/") else None), path
        assert {"401", "429"} <= set(operation["responses"]) or not path.startswith("/v1/")
    assert not security or document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
