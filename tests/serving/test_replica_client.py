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
        if isinstance(outcome := self._outcome(), Exception):
            raise outcome
        return await outcome if inspect.isawaitable(outcome) else outcome

    def cancel(self) -> None:
        self.cancelled = True


class FakeHandle:
    """Serve's handle of a student's deployment. `outcome` returns a result, an error or an awaitable."""

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


async def idle() -> None:
    """Let every task run until it waits."""
    for _ in range(100):
        await asyncio.sleep(0)


pytestmark = pytest.mark.anyio
SUMS, TEXT, QUESTIONS = card("sums"), TextRequest("one", raw=False), [Question("one")]
APPLICATION = "raystill-student-sums"


@pytest.fixture
def handles(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeHandle]:
    """By application; the KeyError for a missing one is Serve's too."""
    found: dict[str, FakeHandle] = {}
    monkeypatch.setattr(module.serve, "get_deployment_handle", lambda deployment, application: found[application])
    return found


@pytest.fixture
def sums(handles: dict[str, FakeHandle]) -> Callable[..., FakeHandle]:
    """Sets the handle of student `sums`: what each call has, or the results of the calls in turn."""

    def answer(each: Callable[[list[str]], Any] | None = None, *results: Any) -> FakeHandle:
        in_turn = iter(results)
        handles[APPLICATION] = FakeHandle(each or (lambda _: next(in_turn)))
        return handles[APPLICATION]

    return answer


def never(texts: list[str]) -> Any:
    return asyncio.Event().wait()


def batch(*outcomes: Any, replica: str = "one", computed: int = 16) -> Batch[Any]:
    return Batch(outcomes, replica, computed)


def dead(actor: str) -> ActorDiedError:
    error = ActorDiedError()
    error.actor_id = actor
    return error


@pytest.mark.parametrize("call", ["answer", "write", "stream"])
@pytest.mark.parametrize("shared", [None, 1])
@pytest.mark.usefixtures("handles")
async def test_a_student_without_application_gets_503(shared: int | None, call: str) -> None:
    client = ReplicaClient(ServingConfig(students_per_replica=shared))
    given = {"answer": QUESTIONS, "write": [TEXT], "stream": TEXT}[call]
    found = getattr(client, call)(SUMS, given, "a")
    with pytest.raises(ApiError) as raised:
        await (anext(found) if call == "stream" else found)
    assert (raised.value.status_code, raised.value.code) == (503, "model_away")
    assert raised.value.retry_after_s


async def test_the_engine_that_answered_is_reported(sums: Callable[..., FakeHandle]) -> None:
    client = ReplicaClient(ServingConfig())
    assert client.engine(SUMS) is None
    sums(None, batch(REPLY), batch(Piece("4", 10, 1, "stop", "vllm")))
    await client.answer(SUMS, QUESTIONS, "a")
    assert client.engine(SUMS) == "transformers"
    await client.write(SUMS, [TEXT], "a")
    assert client.engine(SUMS) == "vllm"
    client.reset()
    assert client.engine(SUMS) is None


async def test_a_request_is_sent_in_slices(sums: Callable[..., FakeHandle]) -> None:
    """So large that a full replica has twice as many calls as its target. Outcomes keep the order of the inputs."""
    client, opened = ReplicaClient(ServingConfig(max_batch_size=256)), set[int]()

    def answer(texts: list[str]) -> Batch[Any]:
        opened.add(client.open_requests["sums"])
        return batch(*(TooLong(int(text), 64) for text in texts), computed=256)

    handle = sums(answer)
    found = await client.answer(SUMS, [Question(str(i), bulk=True) for i in range(40)], "a")
    assert [outcome.tokens for outcome in found if isinstance(outcome, TooLong)] == list(range(40))
    assert (len(handle.calls[0]), sum(map(len, handle.calls))) == (2, 40)
    assert (opened, client.open_requests["sums"]) == ({1}, 0)


async def test_the_room_follows_the_replicas_that_answer(sums: Callable[..., FakeHandle]) -> None:
    names, gates = ["one"], asyncio.Semaphore(0)

    async def answer(texts: list[str]) -> Batch[Any]:
        await gates.acquire()
        return batch(*[REPLY] * len(texts), replica=names[0], computed=4)

    handle = sums(answer)
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


async def test_another_replica_answers_for_a_dead_one(sums: Callable[..., FakeHandle]) -> None:
    """Also if the router still knows only the dead one."""
    sums(None, dead("a"), dead("a"), batch(REPLY))
    assert await ReplicaClient(ServingConfig()).answer(SUMS, QUESTIONS, "a") == [REPLY]
    sums(None, dead("a"), dead("a"), piece := Piece("4", 10, 1, "stop"))
    assert [found async for found in ReplicaClient(ServingConfig()).stream(SUMS, TEXT, "a")] == [piece]


async def test_a_poison_input_is_sent_once_more(sums: Callable[..., FakeHandle]) -> None:
    """Then it is refused. The other inputs of its request are answered."""
    deaths = iter("abcdef")
    handle = sums(lambda texts: dead(next(deaths)) if "poison" in texts else batch(*[REPLY] * len(texts)))
    client = ReplicaClient(ServingConfig(max_batch_size=256))
    questions = [Question(text, bulk=True) for text in ("good", "poison", "fine")]
    assert await client.answer(SUMS, questions, "a") == [REPLY, Failed(kills=True), REPLY]
    assert sum("poison" in call for call in handle.calls) == 2
    assert await client.answer(SUMS, questions[1:], "b") == [Failed(kills=True), REPLY]
    assert [piece async for piece in client.stream(SUMS, TextRequest("poison", raw=True), "b")] == [Failed(kills=True)]
    assert sum("poison" in call for call in handle.calls) == 2
    await client.answer(card("sums", content="other"), questions[1:2], "b")
    assert sum("poison" in call for call in handle.calls) == 4, "a student trained again gets it again"
    handle, client = sums(None, dead("a"), dead("b")), ReplicaClient(ServingConfig())
    for _ in range(2):
        assert [piece async for piece in client.stream(SUMS, TEXT, "a")] == [Failed(kills=True)]
    assert len(handle.calls) == 2


async def test_an_unavailable_or_late_student_is_an_error(sums: Callable[..., FakeHandle]) -> None:
    sums(None, UnavailableError("sums"))
    with pytest.raises(ApiError, match="model sums is unavailable"):
        await ReplicaClient(ServingConfig()).answer(SUMS, QUESTIONS, "a")
    sums(never)
    with pytest.raises(ApiError, match=r"model sums did not answer within 0\.01 s") as raised:
        await ReplicaClient(ServingConfig(request_timeout_s=0.01)).answer(SUMS, QUESTIONS, "a")
    assert raised.value.status_code == 504
    sums(None, dead("a"))
    late = ReplicaClient(ServingConfig(request_timeout_s=0.01))
    await late._poison.alone("sums").acquire()  # another suspect hangs
    with pytest.raises(ApiError, match="did not answer within"):
        async with asyncio.timeout(10.0):
            await anext(late.stream(SUMS, TEXT, "a"))


async def test_full_queues_get_503_and_cancelled_calls_end(sums: Callable[..., FakeHandle]) -> None:
    sums(never)
    client = ReplicaClient(ServingConfig(max_queued_requests=2, max_batch_size=1))
    requests = [asyncio.create_task(client.answer(SUMS, QUESTIONS, "a")) for _ in range(6)]
    await idle()
    with pytest.raises(ApiError, match=r"queue of model sums is full \(2 inputs\)") as raised:
        await client.answer(SUMS, QUESTIONS, "a")
    assert (raised.value.status_code, raised.value.retry_after_s) == (503, 1)
    for request in requests:
        request.cancel()
    handle = sums(never)
    request = asyncio.create_task(ReplicaClient(ServingConfig()).answer(SUMS, QUESTIONS * 2, "a"))
    await idle()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert all(response.cancelled for response in handle.responses)
    assert sum(map(len, handle.calls)) == 2


@pytest.mark.parametrize("ending", ["error", "cancelled"])
async def test_a_request_that_ends_early_frees_its_places(handles: dict[str, FakeHandle], ending: str) -> None:
    """Also those of slices that have just been sent. Requests behind it keep their turns."""
    failing = ending == "error"

    async def answer(texts: list[str]) -> Batch[Any]:
        for _ in range(len(handle.calls) % 4):
            await asyncio.sleep(0)
        if failing:
            raise UnavailableError("sums")
        return batch(*[REPLY] * len(texts), computed=4)

    handle = handles["raystill-student-sums"] = FakeHandle(answer)
    client, many = ReplicaClient(ServingConfig(max_batch_size=4)), [Question("one", bulk=True)] * 60
    for steps in range(20):
        requests = [asyncio.create_task(client.answer(SUMS, many, name)) for name in "abc"]
        for request in requests if ending == "cancelled" else ():
            for _ in range(steps):
                await asyncio.sleep(0)
            request.cancel()
        ended = await asyncio.gather(*requests, return_exceptions=True)
        assert {type(end) for end in ended} == {ApiError if failing else asyncio.CancelledError}
    failing = False
    async with asyncio.timeout(10.0):
        assert await client.answer(SUMS, many, "a") == [REPLY] * 60
