"""What is noted of a request on its way, for the access log and the metrics. Nothing of what was asked, unless log_text is set."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

_SCOPE_KEY = "raystill.notes"


@dataclass
class RequestContext:
    """Of one request."""

    request_id: str
    model: str = ""
    """The student's id."""
    key: str | None = None
    """The name of the key."""
    code: str | None = None
    """Of its error."""
    prompt_tokens: int = 0
    output_tokens: int = 0
    inputs: int = 0
    asked: list[str] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)

    def put(self, scope: Any) -> None:
        """Keep them with a request."""
        scope[_SCOPE_KEY] = self


def notes_of(request: Request) -> RequestContext:
    """The notes of a request; fresh ones where nobody takes any."""
    notes: RequestContext = request.scope.setdefault(_SCOPE_KEY, RequestContext(request_id=""))
    return notes
