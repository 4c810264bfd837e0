"""Students that share a replica: each is given back when another takes its place, and what is not there is away."""

from __future__ import annotations

import asyncio
import gc
import inspect
import weakref
from typing import Any

import pytest

from pipelines.config_serving import ServingConfig
from pipelines.errors import UserError
from serving import replica as module
from serving.cards import StudentCard
from serving.questions import AwayError, Question, Reply
from serving.replica import SharedStudents, StudentReplica
from tests.serving.standins import card


class Made:
    """An engine."""

    name = "made"

    def __init__(self, student: StudentCard) -> None:
        self.student, self.closed = student, 0
        self.held = asyncio.Event()
        self.held.set()

    async def answer(self, question: Question) -> Reply:
        await self.held.wait()
        assert not self.closed
        return Reply(question.text)  # type: ignore[arg-type]

    async def check_health(self) -> None:
        assert not self.closed

    async def close(self) -> None:
        self.closed += 1


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Made]]:
    """All that were made."""
    found: list[weakref.ref[Made]] = []

    def start(student: StudentCard, *_: Any) -> Made:
        if student.name == "broken":
            raise UserError("/students/broken", "it holds another student", "Deploy it anew.")
        engine = Made(student)
        found.append(weakref.ref(engine))
        return engine

    monkeypatch.setattr(module, "start_engine", start)
    monkeypatch.setattr(module, "ReplicaMetrics", lambda _: None)
    return found


async def unload(model: Any) -> None:
    """What ray.serve.multiplex does with a model that makes room."""
    if hasattr(model, "__del__"):
        assert inspect.iscoroutinefunction(model.__del__)
        await model.__del__()
        model.__del__ = lambda _: None


@pytest.mark.filterwarnings("error")
def test_a_student_that_makes_room_is_closed_once_and_let_go(engines: list[weakref.ref[Made]]) -> None:
    async def run() -> None:
        students = SharedStudents([card("a"), card("b")], ServingConfig())
        loaded = await students.load("a")
        engine = engines[0]()
        assert engine is not None
        loaded.askers += 1
        making_room = asyncio.ensure_future(unload(loaded))
        await asyncio.sleep(0.1)
        assert not engine.closed, "somebody still asks it"
        await students.check_health()
        loaded.askers -= 1
        await making_room
        await loaded.close()
        assert engine.closed == 1
        del engine, loaded
        gc.collect()
        assert engines[0]() is None
        await students.load("b")
        await students.check_health()

    asyncio.run(run())
    gc.collect()


@pytest.mark.filterwarnings("error")
def test_a_replica_of_one_student_closes_its_engine_as_serve_asks(engines: list[weakref.ref[Made]]) -> None:
    async def run() -> None:
        replica = StudentReplica(card("a"), ServingConfig())
        engine = engines[0]()
        assert engine is not None
        await unload(replica)
        assert engine.closed == 1
        del replica

    asyncio.run(run())
    gc.collect()


@pytest.mark.parametrize("name", ["nobody", "broken"])
def test_a_student_that_a_replica_does_not_have_is_away(
    engines: list[weakref.ref[Made]], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It is one of before or after a change of the students, or its folder has another student meanwhile."""
    monkeypatch.setattr(module.serve, "get_multiplexed_model_id", lambda: name)
    students = SharedStudents([card("a"), card("broken")], ServingConfig())
    with pytest.raises(AwayError):
        asyncio.run(students.answer(Question("a")))
    assert engines == []
