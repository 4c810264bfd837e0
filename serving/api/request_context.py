"""What the access log and the metrics need of a request. The routes fill it in."""

from __future__ import annotations

from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.types import Scope

_SCOPE_KEY = "raystill.context"


@dataclass
class RequestContext:
    """One request. Its texts are logged only if serving.log_text is set."""

    request_id: str
    model: str = ""
    """Id of the student."""
    key: str | None = None
    """Name of the key."""
    code: str | None = None
    """Code of the error."""
    prompt_tokens: int = 0
    output_tokens: int = 0
    inputs: int = 0
    input_texts: list[str] = field(default_factory=list)
    output_texts: list[str] = field(default_factory=list)

    def attach(self, scope: Scope) -> None:
        """Make `request_context` find it."""
        scope[_SCOPE_KEY] = self


def request_context(request: Request) -> RequestContext:
    """The context of a request; a new one if RequestMiddleware is not in use."""
    return request_context_of(request.scope)


def request_context_of(scope: Scope) -> RequestContext:
    """As `request_context`, for middleware."""
    context: RequestContext = scope.setdefault(_SCOPE_KEY, RequestContext(request_id=""))
    return context


def client_name(request: Request) -> str:
    """Who takes turns with others: the key's name, or the client's address if there are no keys."""
    key = request_context(request).key
    return f"key {key}" if key is not None else f"address {request.client.host if request.client else ''}"
