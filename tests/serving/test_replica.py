"""Replicas without Serve: students that share one are closed when others take their place."""

from __future__ import annotations

import asyncio
import gc
import inspect
import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from pipelines.config.serving import ServingConfig
from pipelines.errors import UserError
from serving import replica as module
from serving.messages import Failed, Piece, Question, Reply, TextRequest, UnavailableError
from serving.model_card import StudentCard
from serving.replica import SharedStudents, StudentReplica
from tests.support.fake_students import card
from tests.support.waiting import until

UNHEALTHY = {"runtime": RuntimeError("it ends at its first token"), "value": ValueError("unexpected")}


class CountingEngine:
    """An engine that counts its ends. Students named `unhealthy` fail the health check, `broken` ones do not start."""

    name, computed, continuous = "fake", 4, False
    made: list[weakref.ref[CountingEngine]]
    closed_names: list[str]
    begun, may_start = threading.Event(), threading.Event()

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
        if question.text == "bad":
            raise ValueError("this question")
        return Reply(question.text)  # type: ignore[arg-type]

    async def stream(self, request: TextRequest) -> Any:
        yield Piece(request.text, 3, 1, "stop")

    async def check_health(self) -> None:
        assert not self.closed
        if self.student.name == "unhealthy":
            raise UNHEALTHY[self.student.version or ""]

    async def close(self) -> None:
        self.closed += 1
        self.closed_names.append(self.student.name)


pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("error")]


@pytest.fixture(autouse=True)
def own_garbage() -> Iterator[None]:
    """Collections below find what a test here leaves, and not the connections that others have left."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def engines(monkeypatch: pytest.MonkeyPatch) -> type[CountingEngine]:
    CountingEngine.made, CountingEngine.closed_names = [], []
    CountingEngine.may_start.set()
    monkeypatch.setattr(module, "start_engine", CountingEngine.start)
    monkeypatch.setattr(module, "ReplicaMetrics", lambda _: None)
    return CountingEngine


def students(*names: str) -> SharedStudents:
    return SharedStudents([card(name) for name in names], ServingConfig())


async def unload(model: Any) -> None:
    """What ray.serve.multiplex does with a model that it drops."""
    assert inspect.iscoroutinefunction(model.__del__)
    await model.__del__()
    model.__del__ = lambda _: None


async def cancelled_load(shared: SharedStudents, name: str) -> None:
    """A request that is cancelled while its student starts."""
    CountingEngine.begun.clear()
    CountingEngine.may_start.clear()
    request = asyncio.create_task(shared.load(name))
    assert await asyncio.to_thread(CountingEngine.begun.wait, 10.0)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request


async def test_a_dropped_student_closes_once_and_is_freed(engines: type[CountingEngine]) -> None:
    shared = students("a", "b")
    loaded = await shared.load("a")
    engine = loaded.engine
    loaded.users += 1
    dropping = asyncio.ensure_future(unload(loaded))
    while not loaded.dropped:
        await asyncio.sleep(0)
    await asyncio.sleep(2 * module._CLOSE_POLL_S)
    assert not engine.closed, "a request still uses it"
    await shared.check_health()
    loaded.users -= 1
    await dropping
    await loaded.close()
    assert engine.closed == 1
    del engine, loaded, dropping
    gc.collect()
    assert engines.made[0]() is None
    await shared.load("b")
    await shared.check_health()


async def test_a_replica_answers_each_question_and_is_closed(engines: type[CountingEngine]) -> None:
    replica = StudentReplica(card("a"), ServingConfig())
    batch = await replica.answer([Question("one"), Question("bad"), Question("two")])
    assert [getattr(outcome, "answer", outcome) for outcome in batch.outcomes] == ["one", Failed(), "two"]
    stream = replica.stream(TextRequest("one", raw=False))
    assert [piece async for piece in stream] == [replace(batch, outcomes=()), Piece("one", 3, 1, "stop")]
    assert (batch.computed, batch.continuous) == (4, False)
    await unload(replica)
    assert engines.closed_names == ["a"]
    del replica
    gc.collect()  # a second close, which nothing awaits, would be a warning


@pytest.mark.parametrize("version", list(UNHEALTHY))
async def test_an_unhealthy_student_is_unavailable(engines: Any, caplog: Any, version: str) -> None:
    unhealthy = card("unhealthy", version=version)
    shared = SharedStudents([unhealthy], ServingConfig())
    for _ in range(2):
        with pytest.raises(UnavailableError):
            await shared.load(unhealthy.id)
    assert engines.closed_names == ["unhealthy", "unhealthy"]
    assert f"{UNHEALTHY[version]}" in caplog.text


@pytest.mark.parametrize("started", [False, True])
async def test_the_next_request_gets_an_engine_left_behind(engines: type[CountingEngine], started: bool) -> None:
    shared = students("a", "b")
    await cancelled_load(shared, "a")
    engines.may_start.set()
    if started:
        await until(lambda: engines.made)
    loaded = await shared.load("a")
    assert len(engines.made) == 1
    assert loaded.engine is engines.made[0]()
    await shared.load("b")
    assert not loaded.dropped, "Serve has received it, and drops it itself"


async def test_an_engine_left_behind_makes_room(engines: type[CountingEngine]) -> None:
    """Serve does not count it: otherwise memory would hold one engine more than allowed."""
    shared = students("a", "b", "broken")
    await cancelled_load(shared, "a")
    threading.Timer(0.05, engines.may_start.set).start()
    assert (await shared.load("b")).engine.student.name == "b"
    assert engines.closed_names == ["a"]
    await cancelled_load(shared, "broken")
    engines.may_start.set()
    with pytest.raises(UnavailableError):
        await shared.load("broken")
    assert (await shared.load("a")).engine.student.name == "a", "a closed engine is started again"


async def test_a_cancelled_request_does_not_stop_closing(engines: type[CountingEngine]) -> None:
    shared = students("a", "b")
    loaded = await shared.load("a")
    engine = loaded.engine
    loaded.users += 1
    dropping = asyncio.create_task(unload(loaded))
    await until(lambda: loaded.dropped)
    dropping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dropping
    loading = asyncio.create_task(shared.load("b"))
    await asyncio.sleep(2 * module._CLOSE_POLL_S)
    assert len(engines.made) == 1, "there is no room for it yet"
    loaded.users -= 1
    await loading
    assert engine.closed == 1


@pytest.mark.parametrize("name", ["nobody", "broken"])
async def test_a_replica_without_the_student_is_unavailable(
    engines: type[CountingEngine], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Before or after a change of the students, or if the folder now holds another student."""
    monkeypatch.setattr(module.serve, "get_multiplexed_model_id", lambda: name)
    with pytest.raises(UnavailableError):
        await students("a", "broken").answer([Question("a")])
    assert engines.made == []
