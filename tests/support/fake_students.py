"""The API without Ray: fake students that answer from a table, and fake deployments for the ingress."""

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
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
from serving.messages import Failed, Piece, Question, Reply, TextRequest, TextToken, TooLong
from serving.model_card import StudentCard
from serving.registry import Registry, TrafficSplit

PAIR_TASK = """
from pipelines.errors import UnparsableError
from pipelines.tasks.base import Answer, Example, Task, text_field

class Pair(Task):
    name = "pair"
    version = "1"
    required = ("left", "right")
    shots = ()

    def read(self, row):
        if row["gold"] is not None or "label" in row:
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
"""A task file, as a student ships it."""


def card(
    name: str, method: str = "step-by-step", task: TaskSpec | None = None, version: str | None = None, **details: Any
) -> StudentCard:
    given: dict[str, Any] = {
        "name": name, "version": version, "method": method, "task": task or TaskSpec("arithmetic"),
        "folder": f"/students/{name}", "family": "encoder-decoder", "parameters": 1234, "max_input_tokens": 64,
        "max_target_tokens": 32, "fingerprint": "f" * 64, "content": "c" * 64, "created_s": 1_700_000_000, "provenance": {},
    }  # fmt: skip
    return StudentCard(**(given | details))


@dataclass
class FakeStudents:
    """A ReplicaClient that answers from a table and records its calls."""

    labels: dict[str, str] = field(default_factory=dict)
    failure: ApiError | Exception | None = None
    breaks_after: int | None = None
    """Pieces of a stream before it fails."""
    breaks_with: Exception = field(default_factory=lambda: ApiError(503, "model_away", "it is away", retry_after_s=1))
    questions: list[tuple[str, list[Question]]] = field(default_factory=list)
    requests: list[tuple[str, TextRequest]] = field(default_factory=list)
    clients: list[str] = field(default_factory=list)
    failed: dict[str, Failed | TooLong] = field(default_factory=dict)
    """By text."""
    closed_streams: int = 0
    engines: dict[str, str] = field(default_factory=dict)
    able: bool = True
    starts_after_s: float = 0.0
    """Until a stream's first piece."""

    async def any_can_answer(self, students: Collection[str]) -> bool:
        return self.able

    def engine(self, student: StudentCard) -> str | None:
        return self.engines.get(student.id)

    async def answer(
        self, student: StudentCard, questions: Sequence[Question], client: str
    ) -> list[Reply | TooLong | Failed]:
        self.clients.append(client)
        self.questions.append((student.id, list(questions)))
        if self.failure:
            raise self.failure
        return [self.failed.get(q.text) or self._reply(student.name, q) for q in questions]

    async def write(
        self, student: StudentCard, requests: Sequence[TextRequest], client: str
    ) -> list[Piece | TooLong | Failed]:
        self.clients.append(client)
        self.requests += [(student.id, request) for request in requests]
        if self.failure:
            raise self.failure
        return [self.failed.get(r.text) or self._too_long(r) or self._piece(r) for r in requests]

    async def stream(
        self, student: StudentCard, request: TextRequest, client: str
    ) -> AsyncGenerator[Piece | TooLong | Failed, None]:
        self.clients.append(client)
        self.requests.append((student.id, request))
        try:
            await asyncio.sleep(self.starts_after_s)
            if self.failure:
                raise self.failure
            if too_long := self._too_long(request):
                yield too_long
                return
            words = self._text(request).split(" ")
            for i, word in enumerate(words):
                if self.breaks_after == i:
                    raise self.breaks_with
                last = i == len(words) - 1
                yield Piece(word if last else f"{word} ", 10, i + 1, "stop" if last else None)
        finally:
            self.closed_streams += 1

    def _piece(self, request: TextRequest) -> Piece:
        text = request.choices[-1] if request.choices else self._text(request)
        words = [text[:2], text[2:]] if request.log_probs else []
        return Piece(text, 10, 4, "stop", tokens=tuple(TextToken(word, -0.25) for word in words))

    def _text(self, request: TextRequest) -> str:
        return self.labels.get(request.text, "4 - 1")

    def _too_long(self, request: TextRequest) -> TooLong | None:
        return TooLong(tokens=1234, limit=64) if len(request.text) > 500 else None

    def _reply(self, name: str, question: Question) -> Reply | TooLong:
        if len(question.text) > 500:
            return TooLong(tokens=1234, limit=64)
        answer = Decoded(self.labels.get(question.text, "4 - 1"), 0.75, prompt_tokens=10, output_tokens=4)
        rationale = Decoded("because", 0.5, prompt_tokens=12, output_tokens=2)
        return Reply(answer, rationale if question.rationale and name != "texts" else None)


@dataclass
class FakeMetrics:
    """Records what IngressMetrics and ReplicaMetrics would count."""

    requests: list[tuple[str, str, int, str | None]] = field(default_factory=list)
    token_counts: list[tuple[str, int, int]] = field(default_factory=list)
    first_tokens: list[str] = field(default_factory=list)
    batch_sizes: list[int] = field(default_factory=list)

    def request(self, route: str, model: str, status: int, seconds: float, code: str | None) -> None:
        self.requests.append((route, model, status, code))

    def tokens(self, model: str, read: int, written: int) -> None:
        if read or written:
            self.token_counts.append((model, read, written))

    def first_token(self, model: str, seconds: float) -> None:
        self.first_tokens.append(model)

    def batch(self, waited_s: list[float]) -> None:
        self.batch_sizes.append(len(waited_s))

    def waited(self, seconds: float) -> None:
        pass


def app_of(
    cards: Sequence[StudentCard], students: FakeStudents, settings: ServingConfig | None = None,
    metrics: FakeMetrics | None = None, split: TrafficSplit | None = None, unavailable: Mapping[str, str] | None = None,
) -> RequestMiddleware:  # fmt: skip
    settings = settings or ServingConfig()
    registry = Registry(cards, split or {}, unavailable or {})
    keys, counted = KeyRing(settings.keys), metrics or FakeMetrics()
    api = Api(lambda: registry, students, students.any_can_answer, settings, keys, counted)
    return create_app(api)


def client_of(*args: Any, **kwargs: Any) -> TestClient:
    return TestClient(app_of(*args, **kwargs), base_url="http://localhost", raise_server_exceptions=False)
