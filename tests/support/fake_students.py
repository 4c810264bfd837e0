"""The HTTP side without Ray: students that answer from a table stand behind it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi.testclient import TestClient

from pipelines.config.serving import ServingConfig
from pipelines.students.decoding import Decoded
from pipelines.tasks.base import TaskSpec
from serving.api.api_keys import KeyRing
from serving.api.errors import ApiError
from serving.api.middleware import RequestMiddleware
from serving.api.routes import Api, create_app
from serving.messages import Piece, Question, Reply, TextRequest, TooLong
from serving.model_card import StudentCard
from serving.registry import Registry, TrafficSplit


def card(
    name: str, method: str = "step-by-step", task: TaskSpec | None = None, version: str | None = None, **details: Any
) -> StudentCard:
    given: dict[str, Any] = {
        "folder": f"/students/{name}", "family": "encoder-decoder", "parameters": 1234, "max_input_tokens": 64,
        "max_target_tokens": 32, "fingerprint": "f" * 64, "created_s": 1_700_000_000, "provenance": {},
    }  # fmt: skip
    return StudentCard(
        name=name, version=version, method=method, task=task or TaskSpec("arithmetic"), **(given | details)
    )


@dataclass
class Standins:
    """Answers from a table; notes what it was asked."""

    labels: dict[str, str] = field(default_factory=dict)
    failure: ApiError | Exception | None = None
    breaks_after: int | None = None
    """Pieces of a stream before it fails."""
    breaks_with: Exception = field(
        default_factory=lambda: ApiError(503, "model_away", "model sums is away", retry_after_s=1)
    )
    asked: list[tuple[str, list[Question]]] = field(default_factory=list)
    orders: list[tuple[str, TextRequest]] = field(default_factory=list)
    closed: int = 0
    engines: dict[str, str] = field(default_factory=dict)

    def engine(self, student: StudentCard) -> str | None:
        return self.engines.get(student.id)

    async def ask(self, student: StudentCard, questions: Sequence[Question]) -> list[Reply | TooLong]:
        self.asked.append((student.id, list(questions)))
        if self.failure:
            raise self.failure
        return [self._answer(student.name, question) for question in questions]

    async def write(self, student: StudentCard, orders: Sequence[TextRequest]) -> list[Piece | TooLong]:
        self.orders += [(student.id, order) for order in orders]
        if self.failure:
            raise self.failure
        return [self._too_long(order) or Piece(self._text(order), 10, 4, "stop") for order in orders]

    async def stream(self, student: StudentCard, order: TextRequest) -> AsyncGenerator[Piece | TooLong, None]:
        self.orders.append((student.id, order))
        try:
            if self.failure:
                raise self.failure
            if too_long := self._too_long(order):
                yield too_long
                return
            words = self._text(order).split(" ")
            for i, word in enumerate(words):
                if self.breaks_after == i:
                    raise self.breaks_with
                last = i == len(words) - 1
                yield Piece(word if last else f"{word} ", 10, i + 1, "stop" if last else None)
        finally:
            self.closed += 1

    def _text(self, order: TextRequest) -> str:
        return self.labels.get(order.text, "4 - 1")

    def _too_long(self, order: TextRequest) -> TooLong | None:
        return TooLong(tokens=1234, limit=64) if len(order.text) > 500 else None

    def _answer(self, name: str, question: Question) -> Reply | TooLong:
        if len(question.text) > 500:
            return TooLong(tokens=1234, limit=64)
        answer = Decoded(self.labels.get(question.text, "4 - 1"), 0.75, prompt_tokens=10, output_tokens=4)
        rationale = Decoded("because", 0.5, prompt_tokens=12, output_tokens=2)
        return Reply(answer, rationale if question.rationale and name != "texts" else None)


@dataclass
class Counted:
    """Metrics that can be looked at."""

    requests: list[tuple[str, str, int, str | None]] = field(default_factory=list)
    counted: list[tuple[str, int, int]] = field(default_factory=list)
    firsts: list[str] = field(default_factory=list)

    def request(self, route: str, model: str, status: int, seconds: float, code: str | None) -> None:
        self.requests.append((route, model, status, code))

    def tokens(self, model: str, read: int, written: int) -> None:
        if read or written:
            self.counted.append((model, read, written))

    def first_token(self, model: str, seconds: float) -> None:
        self.firsts.append(model)


def app_of(
    cards: Sequence[StudentCard], students: Standins, settings: ServingConfig | None = None,
    metrics: Counted | None = None, split: TrafficSplit | None = None, away: Mapping[str, str] | None = None,
    names_requests: bool = True,
) -> RequestMiddleware:  # fmt: skip
    settings = settings or ServingConfig()
    roster = Registry(cards, split or {}, away or {})
    api = Api(lambda: roster, students, settings, KeyRing(settings.keys), metrics or Counted())
    return create_app(api, names_requests=names_requests)


def client_of(*args: Any, **kwargs: Any) -> TestClient:
    return TestClient(app_of(*args, **kwargs), raise_server_exceptions=False)
