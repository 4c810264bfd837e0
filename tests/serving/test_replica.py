"""Students that share a replica: each is given back when another takes its place, and what is not there is away."""

from __future__ import annotations

import asyncio
import gc
import inspect
import threading
import weakref
from typing import Any

import pytest

from pipelines.config.serving import ServingConfig
from pipelines.errors import UserError
from serving import replica as module
from serving.messages import Question, Reply, UnavailableError
from serving.model_card import StudentCard
from serving.replica import SharedStudents, StudentReplica
from tests.support.fake_students import card


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
        if self.student.name == "mute":
            raise MUTE[self.student.version or ""]

    async def close(self) -> None:
        self.closed += 1


MUTE = {"runtime": RuntimeError("it ends at its first token"), "value": ValueError("what nobody foresaw")}


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


@pytest.mark.parametrize("version", ["runtime", "value"])
@pytest.mark.filterwarnings("error")
def test_a_student_that_starts_and_cannot_write_is_away(
    engines: list[weakref.ref[Made]], caplog: pytest.LogCaptureFixture, version: str
) -> None:
    closed: list[int] = []

    async def run() -> None:
        mute = card("mute", version=version)
        students = SharedStudents([mute], ServingConfig())
        for _ in range(2):
            with pytest.raises(UnavailableError):
                await students.load(mute.id)

    close = Made.close

    async def noted(engine: Made) -> None:
        await close(engine)
        closed.append(engine.closed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Made, "close", noted)
        asyncio.run(run())
    assert closed == [1, 1]
    assert f"{MUTE[version]}" in caplog.text


class Slow:
    """Starts that take until they are let go."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        start = module.start_engine

        def slow(*asked: Any) -> Any:
            self.begun.set()
            assert self.go.wait(10.0)
            return start(*asked)

        patch.setattr(module, "start_engine", slow)

    async def left(self, students: SharedStudents, name: str) -> None:
        """A request that goes away while its student starts."""
        asked = asyncio.create_task(students.load(name))
        assert await asyncio.to_thread(self.begun.wait, 10.0)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked


@pytest.mark.parametrize("ended", [False, True])
def test_an_engine_whose_asker_went_away_is_the_next_ones(
    engines: list[weakref.ref[Made]], monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    slow = Slow(monkeypatch)

    async def run() -> None:
        students = SharedStudents([card("a"), card("b")], ServingConfig())
        await slow.left(students, "a")
        slow.go.set()
        while ended and not engines:
            await asyncio.sleep(0.01)
        loaded = await students.load("a")
        assert len(engines) == 1
        assert loaded.engine is engines[0]()
        await students.load("b")
        assert not loaded.closed, "it is Serve's by now"

    asyncio.run(run())


def test_an_engine_whose_asker_went_away_makes_room(
    engines: list[weakref.ref[Made]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Serve does not count it: without this, one engine more than was allowed would be in memory."""
    slow = Slow(monkeypatch)

    async def run() -> None:
        students = SharedStudents([card("a"), card("b"), card("broken")], ServingConfig())
        await slow.left(students, "a")
        threading.Timer(0.05, slow.go.set).start()
        other = await students.load("b")
        assert isinstance(made := other.engine, Made)
        assert made.student.name == "b"
        assert (orphan := engines[0]()) is None or orphan.closed == 1
        slow.begun.clear()
        slow.go.clear()
        await slow.left(students, "broken")
        slow.go.set()
        with pytest.raises(UnavailableError):
            await students.load("broken")
        again = await students.load("a")
        assert isinstance(again.engine, Made), "one that was closed is started anew"

    asyncio.run(run())


def test_a_student_that_makes_room_does_so_though_who_asked_for_it_goes_away(
    engines: list[weakref.ref[Made]],
) -> None:
    async def run() -> None:
        students = SharedStudents([card("a"), card("b")], ServingConfig())
        loaded = await students.load("a")
        engine = engines[0]()
        assert engine is not None
        loaded.askers += 1
        making_room = asyncio.create_task(unload(loaded))
        await asyncio.sleep(0.01)
        making_room.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making_room
        loading = asyncio.create_task(students.load("b"))
        await asyncio.sleep(0.1)
        assert len(engines) == 1, "there is no room for it yet"
        loaded.askers -= 1
        await loading
        assert engine.closed == 1

    asyncio.run(run())


@pytest.mark.parametrize("name", ["nobody", "broken"])
def test_a_student_that_a_replica_does_not_have_is_away(
    engines: list[weakref.ref[Made]], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It is one of before or after a change of the students, or its folder has another student meanwhile."""
    monkeypatch.setattr(module.serve, "get_multiplexed_model_id", lambda: name)
    students = SharedStudents([card("a"), card("broken")], ServingConfig())
    with pytest.raises(UnavailableError):
        asyncio.run(students.answer(Question("a")))
    assert engines == []
