"""docs/reference/http-api.md: routes, bodies and errors of the endpoint."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from cluster.reference.fields import default_text, meanings, sentence, table, type_text
from cluster.reference.source import calls

_HEAD = """# HTTP API

`GET /openapi.json` of an endpoint describes the same to programs, and `GET /` is a page to try it.
[serve.md](../serve.md) explains limits, keys and streams.

## Routes

"""


def http_api_page() -> str:
    """The page."""
    from serving.api.errors import ErrorDetail
    from serving.api.models import Model, TaskField
    from serving.api.openai_requests import ChatRequest, CompletionRequest, StreamOptions
    from serving.api.predict import InputError, Prediction, PredictRequest, PredictResponse, Usage

    models: tuple[type[BaseModel], ...] = (
        PredictRequest, PredictResponse, Prediction, InputError, Usage, CompletionRequest, ChatRequest, StreamOptions, Model, TaskField,
        ErrorDetail,
    )  # fmt: skip
    text = _HEAD + _routes() + "\n" + "".join(_body(model) for model in models)
    return f'{text}## Errors\n\nEvery error is `{{"error": {{...}}}}` with these codes.\n\n{_errors()}'


def _routes() -> str:
    rows = []
    for path, methods in _document()["paths"].items():
        for method, route in methods.items():
            content = route.get("requestBody", {}).get("content", {})
            body = next(iter(content.values()))["schema"]["$ref"].rpartition("/")[2] if content else ""
            statuses = ", ".join(status for status in route["responses"])
            rows.append([f"`{method.upper()} {path}`", body, statuses, route["description"].partition("\n")[0]])
    return table(["route", "body", "statuses", "answer"], rows)


def _document() -> dict[str, Any]:
    """The OpenAPI document. Routes only read the settings before the first request."""
    from pipelines.config.serving import KeysConfig, ServingConfig
    from serving.api.api_keys import KeyRing
    from serving.api.routes import Api, create_app

    absent: Any = None
    api = Api(lambda: absent, absent, absent, ServingConfig(), KeyRing(KeysConfig()), absent)
    app: Any = create_app(api).app
    return dict(app.openapi())


def _body(model: type[BaseModel]) -> str:
    explained = meanings(model)
    rows = [
        [f"`{name}`", type_text(field.annotation, field.metadata), default_text(field), explained.get(name, "")]
        for name, field in model.model_fields.items()
    ]
    return f"## {model.__name__}\n\n{sentence(model)}\n\n{table(['field', 'value', 'default', 'meaning'], rows)}\n"


def _errors() -> str:
    codes: dict[int, set[str]] = {}
    for one in calls("serving", {"ApiError"}):
        status, code, *_ = one.arguments
        if status and code:
            codes.setdefault(status, set()).add(f"`{code}`")
    return table(["status", "codes"], [[str(status), ", ".join(sorted(codes[status]))] for status in sorted(codes)])
