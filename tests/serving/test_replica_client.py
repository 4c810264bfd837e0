"""Calls to replicas without Ray: slices, unavailable students, full queues, cancelled requests, replicas that die."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
from ray.exceptions import ActorDiedError

from pipelines.config.base import ReplicasConfig
from pipelines.config.serving import ServingConfig
from pipelines.students.decoding import Decoded
from serving import replica_client as module
from serving.api.errors import ApiError
from serving.messages import Batch, Failed, Piece, Question, Reply, TextRequest, TooLong, UnavailableError
from serving.replica_client import ReplicaClient
from tests.support.fake_students import card

REPLY = Reply(Decoded("4 - 1", 0.75, 10, 4), engine="transformers")


class FakeResponse:
    """Serve's response to one call."""

    def __init__(self, outcome: Callable[[], Any]) -> None:
        self._outcome, self.cancelled = outcome, False

    async def __aiter__(self) -> AsyncGenerator[Any, None]:
        yield batch()
        yield await self._result()

    def __await__(self) -> Any:
        return self._result().__await__()

    async def _result(self) -> Any:
        outcome = self._outcome()
        return await outcome if inspect.isawaitable(outcome) else outcome

    def cancel(self) -> None:
        self.cancelled = True


class FakeHandle:
    """Serve's handle of a student's deployment. `outcome` returns a result, raises, or returns an awaitable."""

    def __init__(self, outcome: Callable[[list[str]], Any]) -> None:
        self._outcome, self.responses = outcome, list[FakeResponse]()
        self.answer = self.write = self.stream = self
        self.calls = list[list[str]]()

    def remote(self, items: Any) -> FakeResponse:
        texts = [item.text for item in items] if isinstance(items, list) else [items.text]
        self.calls.append(texts)
        self.responses.append(FakeResponse(lambda: self._outcome(texts)))
        return self.responses[-1]

    def options(self, *, stream: bool) -> FakeHandle:
        return self


def raise_or_return(result: Any) -> Any:
    if isinstance(result, Exception):
        raise result
    return result


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


def batch(*outcomes: Any, replica: str = "one", computed: int = 16) -> Batch[Any]:
    return Batch(outcomes, replica, computed)


def dead(actor: str) -> ActorDiedError:
    error = ActorDiedError()
    error.actor_id = actor
    return error


@pytest.mark.parametrize("call", ["answer", "write", "stream"])
@pytest.mark.parametrize("shared", [None, 1])
async def test_a_student_without_application_gets_503(
    handles: dict[str, FakeHandle], shared: int | None, call: str
) -> None:
    """Serve is building it, or has ended it."""
    client = ReplicaClient(ServingConfig(students_per_replica=shared))
    calls = {"answer": lambda: client.answer(SUMS, QUESTIONS, "a"), "write": lambda: client.write(SUMS, [TEXT], "a"),
             "stream": lambda: anext(client.stream(SUMS, TEXT, "a"))}  # fmt: skip
    with pytest.raises(ApiError) as raised:
        await calls[call]()  # type: ignore[no-untyped-call]
    assert (raised.value.status_code, raised.value.code) == (503, "model_away")
    assert raised.value.retry_after_s


async def test_the_engine_that_answered_is_reported(handles: dict[str, FakeHandle]) -> None:
    client = ReplicaClient(ServingConfig())
    assert client.engine(SUMS) is None
    results = iter([batch(REPLY), batch(Piece("4", 10, 1, "stop", "vllm"))])
    handles["raystill-student-sums"] = FakeHandle(lambda _: next(results))
    await client.answer(SUMS, QUESTIONS, "a")
    assert client.engine(SUMS) == "transformers"
    await client.write(SUMS, [TEXT], "a")
    assert client.engine(SUMS) == "vllm"
    client.reset()
    assert client.engine(SUMS) is None


async def test_a_request_is_sent_in_slices(handles: dict[str, FakeHandle]) -> None:
    """So large that a full replica has twice as many calls as its target. Outcomes keep the order of the inputs."""
    client, opened = ReplicaClient(ServingConfig(max_batch_size=256)), set[int]()

    def answer(texts: list[str]) -> Batch[Any]:
        opened.add(client.open_requests["sums"])
        return batch(*(TooLong(int(text), 64) for text in texts), computed=256)

    handle = handles["raystill-student-sums"] = FakeHandle(answer)
    found = await client.answer(SUMS, [Question(str(i), bulk=True) for i in range(40)], "a")
    assert [outcome.tokens for outcome in found if isinstance(outcome, TooLong)] == list(range(40))
    assert (len(handle.calls[0]), sum(map(len, handle.calls))) == (2, 40)
    assert (opened, client.open_requests["sums"]) == ({1}, 0)


async def test_the_room_follows_the_replicas_that_answer(handles: dict[str, FakeHandle]) -> None:
    names = ["one"]
    gates = asyncio.Semaphore(0)

    async def answer(texts: list[str]) -> Batch[Any]:
        await gates.acquire()
        return batch(*[REPLY] * len(texts), replica=names[0], computed=4)

    handle = handles["raystill-student-sums"] = FakeHandle(answer)
    client = ReplicaClient(ServingConfig(max_batch_size=4, replicas=ReplicasConfig(min=1, max=2)))
    request = asyncio.create_task(client.answer(SUMS, [Question("one", bulk=True)] * 30, "a"))
    await idle()
    assert len(handle.calls) == 4
    names[0] = "two"
    for _ in range(2):
        gates.release()
        await idle()
        names[0] = "one"
    assert sum(len(call) for call in handle.calls) == 2 + 8
    for _ in range(30):
        gates.release()
    assert len(await request) == 30


@pytest.mark.parametrize("call", ["answer", "stream"])
async def test_another_replica_answers_for_a_dead_one(handles: dict[str, FakeHandle], call: str) -> None:
    """Also if the router still knows only the dead one."""
    results = iter([dead("a"), dead("a"), batch(REPLY)])
    handles["raystill-student-sums"] = FakeHandle(lambda _: raise_or_return(next(results)))
    client = ReplicaClient(ServingConfig())
    if call == "answer":
        assert await client.answer(SUMS, QUESTIONS, "a") == [REPLY]
    else:
        results = iter([dead("a"), dead("a"), Piece("4", 10, 1, "stop")])
        assert [piece async for piece in client.stream(SUMS, TEXT, "a")] == [Piece("4", 10, 1, "stop")]


async def test_a_poison_input_is_sent_once_more(handles: dict[str, FakeHandle]) -> None:
    """Then it is refused. The other inputs of its request are answered."""
    deaths = iter("abcdef")

    def answer(texts: list[str]) -> Any:
        return raise_or_return(dead(next(deaths)) if "poison" in texts else batch(*[REPLY] * len(texts)))

    handle = handles["raystill-student-sums"] = FakeHandle(answer)
    client = ReplicaClient(ServingConfig(max_batch_size=256))
    questions = [Question(text, bulk=True) for text in ("good", "poison", "fine")]
    assert await client.answer(SUMS, questions, "a") == [REPLY, Failed(kills=True), REPLY]
    assert sum("poison" in call for call in handle.calls) == 2
    assert await client.answer(SUMS, questions[1:], "b") == [Failed(kills=True), REPLY]
    assert [piece async for piece in client.stream(SUMS, TextRequest("poison", raw=True), "b")] == [Failed(kills=True)]
    assert sum("poison" in call for call in handle.calls) == 2
    again = card("sums", content="other")
    await client.answer(again, questions[1:2], "b")
    assert sum("poison" in call for call in handle.calls) == 4, "a student trained again gets it again"


async def test_a_poison_stream_is_sent_once_more(handles: dict[str, FakeHandle]) -> None:
    deaths = iter("abcdef")
    handle = handles["raystill-student-sums"] = FakeHandle(lambda _: raise_or_return(dead(next(deaths))))
    client = ReplicaClient(ServingConfig())
    for _ in range(2):
        assert [piece async for piece in client.stream(SUMS, TEXT, "a")] == [Failed(kills=True)]
    assert len(handle.calls) == 2


async def test_an_unavailable_student_gets_503(handles: dict[str, FakeHandle]) -> None:
    handles["raystill-student-sums"] = FakeHandle(lambda _: raise_or_return(UnavailableError("sums")))
    with pytest.raises(ApiError, match="model sums is unavailable"):
        await ReplicaClient(ServingConfig()).answer(SUMS, QUESTIONS, "a")


async def test_a_full_queue_gets_503(handles: dict[str, FakeHandle]) -> None:
    handles["raystill-student-sums"] = FakeHandle(lambda _: asyncio.Event().wait())
    client = ReplicaClient(ServingConfig(max_queued_requests=2, max_batch_size=1))
    requests = [asyncio.create_task(client.answer(SUMS, QUESTIONS, "a")) for _ in range(6)]
    await idle()
    with pytest.raises(ApiError, match=r"queue of model sums is full \(2 inputs\)") as raised:
        await client.answer(SUMS, QUESTIONS, "a")
    assert (raised.value.status_code, raised.value.retry_after_s) == (503, 1)
    for request in requests:
        request.cancel()


async def test_calls_of_a_cancelled_request_are_cancelled(handles: dict[str, FakeHandle]) -> None:
    handle = handles["raystill-student-sums"] = FakeHandle(lambda _: asyncio.Event().wait())
    request = asyncio.create_task(ReplicaClient(ServingConfig()).answer(SUMS, QUESTIONS * 2, "a"))
    await idle()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert all(response.cancelled for response in handle.responses)
    assert sum(map(len, handle.calls)) == 2


async def test_a_late_answer_gets_504(handles: dict[str, FakeHandle]) -> None:
    handles["raystill-student-sums"] = FakeHandle(lambda _: asyncio.Event().wait())
    with pytest.raises(ApiError, match=r"model sums did not answer within 0\.01 s") as raised:
        await ReplicaClient(ServingConfig(request_timeout_s=0.01)).answer(SUMS, QUESTIONS, "a")
    assert raised.value.status_code == 504
