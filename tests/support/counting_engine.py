"""An engine for replicas that counts its starts and ends, and whose start can be held up."""

from __future__ import annotations

import threading
import weakref
from typing import Any

from pipelines.errors import UserError
from serving.messages import Question, Reply
from serving.model_card import StudentCard

UNHEALTHY = {"runtime": RuntimeError("it ends at its first token"), "value": ValueError("unexpected")}


class CountingEngine:
    """An engine that counts its ends. Students named `unhealthy` fail the health check, `broken` ones do not start."""

    name = "fake"
    made: list[weakref.ref[CountingEngine]]
    closed_names: list[str]
    begun: threading.Event
    """Set when a start begins."""
    may_start: threading.Event

    def __init__(self, student: StudentCard) -> None:
        self.student, self.closed = student, 0

    @classmethod
    def start(cls, student: StudentCard, *_: Any) -> CountingEngine:
        cls.begun.set()
        assert cls.may_start.wait(10.0)
        if student.name == "broken":
            raise UserError("/students/broken", "it holds another student", "Deploy it again.")
        engine = CountingEngine(student)
        cls.made.append(weakref.ref(engine))
        return engine

    async def answer(self, question: Question) -> Reply:
        assert not self.closed
        return Reply(question.text)  # type: ignore[arg-type]

    async def check_health(self) -> None:
        assert not self.closed
        if self.student.name == "unhealthy":
            raise UNHEALTHY[self.student.version or ""]

    async def close(self) -> None:
        self.closed += 1
        self.closed_names.append(self.student.name)

    @classmethod
    def reset(cls) -> None:
        """Forget the engines of earlier tests."""
        cls.made, cls.closed_names = [], []
        cls.begun, cls.may_start = threading.Event(), threading.Event()
        cls.may_start.set()
