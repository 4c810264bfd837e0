"""Calls to replicas without Ray: unavailable students, full queues, cancelled requests, replicas that die."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import pytest
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError

from pipelines.config.serving import ServingConfig
from pipelines.students.decoding import Decoded
from serving import replica_client as module
from serving.api.errors import ApiError
from serving.messages import Piece, Question, Reply, TextRequest, UnavailableError
from serving.replica_client import ReplicaClient
from tests.support.fake_students import card

REPLY = Reply(Decoded("4 - 1", 0.75, 10, 4), engine="transformers")


class FakeResponse:
    """Serve's response to one call."""

    def __init__(self, outcome: Callable[[], Any]) -> None:
        self._outcome, self.cancelled = outcome, False

    def __await__(self) -> Any:
        return self._result().__await__()

    async def _result(self) -> Any:
        outcome = self._outcome()
        return await outcome if inspect.isawaitable(outcome) else outcome

    def cancel(self) -> None:
        self.cancelled = True


class FakeHandle:
    """Serve's handle of a student's deployment. `outcome` returns a result, raises, or returns an awaitable."""

    def __init__(self, outcome: Callable[[], Any]) -> None:
        self._outcome, self.responses = outcome, list[FakeResponse]()
        self.answer = self.write = self

    def remote(self, *_: Any) -> FakeResponse:
        self.responses.append(FakeResponse(self._outcome))
        return self.responses[-1]


class FakeQueue:
    """The student `sums` with a limited queue. Questions in it are answered one at a time, by `answer`."""

    def __init__(self, handles: dict[str, FakeHandle], places: int) -> None:
        self.free, self.calls, self.running = places, 0, 0
        self._permits = asyncio.Semaphore(0)
        handles["raystill-student-sums"] = FakeHandle(self._call)
        self._client = ReplicaClient(ServingConfig(request_timeout_s=10.0))

    def request(self, inputs: int) -> asyncio.Task[Any]:
        return asyncio.create_task(self._client.answer(card("sums"), [Question("one")] * inputs))

    async def answer(self, questions: int = 1) -> None:
        for _ in range(questions):
            self._permits.release()
            await idle()

    async def _call(self) -> Reply:
        self.calls += 1
        if self.free <= 0:
            raise BackPressureError(num_queued_requests=1, max_queued_requests=1)
        self.free -= 1
        self.running += 1
        await self._permits.acquire()
        self.free += 1
        self.running -= 1
        return REPLY


async def idle() -> None:
    """Let every task run until it waits."""
    for _ in range(100):
        await asyncio.sleep(0)


pytestmark = pytest.mark.anyio
SUMS, TEXT, QUESTIONS = card("sums"), TextRequest("one", raw=False), [Question("one")]


@pytest.fixture
def handles(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeHandle]:
    """By application; the KeyError for a missing one is Serve's too."""
    found: dict[str, FakeHandle] = {}
    monkeypatch.setattr(module.serve, "get_deployment_handle", lambda deployment, application: found[application])
    return found


def outcomes(*results: Any) -> FakeHandle:
    """A student whose calls return or raise these, one after the other."""
    remaining = list(results)

    def next_outcome() -> Any:
        if isinstance(outcome := remaining.pop(0), Exception):
            raise outcome
        return outcome

    return FakeHandle(next_outcome)


@pytest.mark.parametrize("call", ["answer", "write", "stream"])
@pytest.mark.parametrize("shared", [None, 1])
async def test_a_student_without_application_gets_503(
    handles: dict[str, FakeHandle], shared: int | None, call: str
) -> None:
    """Serve is building it, or has ended it."""
    client = ReplicaClient(ServingConfig(students_per_replica=shared))
    calls = {"answer": lambda: client.answer(SUMS, QUESTIONS), "write": lambda: client.write(SUMS, [TEXT]),
             "stream": lambda: anext(client.stream(SUMS, TEXT))}  # fmt: skip
    with pytest.raises(ApiError) as raised:
        await calls[call]()  # type: ignore[no-untyped-call]
    assert (raised.value.status_code, raised.value.code) == (503, "model_away")
    assert raised.value.retry_after_s


async def test_the_engine_that_answered_is_reported(handles: dict[str, FakeHandle]) -> None:
    client = ReplicaClient(ServingConfig())
    assert client.engine(SUMS) is None
    handles["raystill-student-sums"] = outcomes(REPLY, Piece("4", 10, 1, "stop", "vllm"))
    await client.answer(SUMS, QUESTIONS)
    assert client.engine(SUMS) == "transformers"
    await client.write(SUMS, [TEXT])
    assert client.engine(SUMS) == "vllm"
    client.reset()
    assert client.engine(SUMS) is None


async def test_another_replica_answers_for_a_dead_one(
    handles: dict[str, FakeHandle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RETRY_DELAYS_S", (0.0, 0.0, None))
    dead = RayActorError()
    handles["raystill-student-sums"] = outcomes(dead, dead, REPLY, dead, dead, dead, UnavailableError("sums"))
    client = ReplicaClient(ServingConfig())
    assert await client.answer(SUMS, QUESTIONS) == [REPLY]
    for _ in range(2):  # all attempts fail; the replica holds other students
        with pytest.raises(ApiError, match="model sums is unavailable"):
            await client.answer(SUMS, QUESTIONS)
    assert len(handles["raystill-student-sums"].responses) == 7


async def test_requests_larger_than_the_queue_share_it(handles: dict[str, FakeHandle]) -> None:
    """One that gets no place in it is refused."""
    queue = FakeQueue(handles, 6)
    small, large, refused = (queue.request(inputs) for inputs in (4, 40, 4))
    with pytest.raises(ApiError, match="queue of model sums is full"):
        await refused
    await queue.answer(44)
    assert (len(await small), len(await large)) == (4, 40)
    assert queue.calls <= 48 + 2 * 44, "each answer lets two try again, and not all"


async def test_a_request_uses_places_that_become_free(handles: dict[str, FakeHandle]) -> None:
    queue = FakeQueue(handles, 1)
    request = queue.request(60)
    await idle()
    assert queue.running == 1
    queue.free = 100
    await queue.answer(20)
    assert queue.running > 20, "each answer lets two follow"
    await queue.answer(40)
    assert len(await request) == 60


async def test_a_partly_answered_request_waits_for_places(
    handles: dict[str, FakeHandle], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other requests took the place that its answer freed."""
    monkeypatch.setattr(module, "_QUEUE_FULL_DELAY_S", 0.01)
    queue = FakeQueue(handles, 1)
    request = queue.request(3)
    await idle()
    queue.free = -1
    await queue.answer()
    calls = queue.calls
    async with asyncio.timeout(5.0):
        while queue.calls < calls + 3:  # it tries again, and is refused
            await asyncio.sleep(0.01)
        assert (queue.running, request.done()) == (0, False)
        queue.free = 1
        while not request.done():
            await queue.answer()
            await asyncio.sleep(0.01)
    assert len(await request) == 3


async def test_calls_of_a_cancelled_request_are_cancelled(handles: dict[str, FakeHandle]) -> None:
    handle = handles["raystill-student-sums"] = FakeHandle(lambda: asyncio.Event().wait())
    request = asyncio.create_task(ReplicaClient(ServingConfig()).answer(SUMS, QUESTIONS * 2))
    await idle()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert [response.cancelled for response in handle.responses] == [True, True]


async def test_a_late_answer_gets_504(handles: dict[str, FakeHandle]) -> None:
    handles["raystill-student-sums"] = FakeHandle(lambda: asyncio.Event().wait())
    with pytest.raises(ApiError, match=r"model sums did not answer within 0\.01 s") as raised:
        await ReplicaClient(ServingConfig(request_timeout_s=0.01)).answer(SUMS, QUESTIONS)
    assert raised.value.status_code == 504
