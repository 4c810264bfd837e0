"""The questions of one request: where the student's queue is full, and where nobody waits for them any more. Without Ray."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from ray.serve.exceptions import BackPressureError

from pipelines.config.serving import ServingConfig
from serving import ingress as module
from serving.api.errors import ApiError
from serving.ingress import Ingress
from serving.messages import Question, Reply
from tests.serving.test_ingress import REPLY, Handle, students
from tests.support.fake_students import card

__all__ = ["students"]


class Queue:
    """A student with so many free places. A question that has one is answered when it is let go, one after the other."""

    def __init__(self, places: int) -> None:
        self.free, self.sent, self.under_way = places, 0, 0
        self.let_go = asyncio.Semaphore(0)

    async def answered(self) -> Reply:
        self.sent += 1
        if self.free <= 0:
            raise BackPressureError(num_queued_requests=1, max_queued_requests=1)
        self.free -= 1
        self.under_way += 1
        await self.let_go.acquire()
        self.free += 1
        self.under_way -= 1
        return REPLY

    async def answer(self, questions: int = 1) -> None:
        for _ in range(questions):
            self.let_go.release()
            await settled()


async def settled() -> None:
    """All that can go on has done so."""
    for _ in range(100):
        await asyncio.sleep(0)


def asked_of(queue: Queue, students: dict[str, Handle], *inputs: int) -> list[asyncio.Task[Any]]:
    """Requests with so many inputs."""
    students["raystill-student-sums"] = Handle(queue.answered)
    ingress = Ingress(ServingConfig(request_timeout_s=10.0))
    return [asyncio.create_task(ingress.ask(card("sums"), [Question("one")] * count)) for count in inputs]


def test_requests_that_share_a_full_queue_are_both_answered(students: dict[str, Handle]) -> None:
    """And one whose questions have no place in it is refused."""

    async def run() -> None:
        queue = Queue(6)
        *both, third = asked_of(queue, students, 4, 40, 4)
        with pytest.raises(ApiError, match="queue of model sums is full"):
            await third
        await queue.answer(44)
        assert [len(await each) for each in both] == [4, 40]
        assert queue.sent <= 48 + 2 * 44, "each answer lets two try again, and not all"

    asyncio.run(run())


def test_a_request_takes_the_room_that_comes(students: dict[str, Handle]) -> None:
    async def run() -> None:
        queue = Queue(1)
        (request,) = asked_of(queue, students, 60)
        await settled()
        assert queue.under_way == 1
        queue.free = 100
        await queue.answer(20)
        assert queue.under_way > 20, "each answer lets two follow"
        await queue.answer(40)
        assert len(await request) == 60

    asyncio.run(run())


def test_a_request_that_has_begun_waits_for_its_rest(
    students: dict[str, Handle], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others have taken the place that its answer made."""
    monkeypatch.setattr(module, "_FULL_S", 0.01)

    async def run() -> None:
        queue = Queue(1)
        (request,) = asked_of(queue, students, 3)
        await settled()
        queue.free = -1
        await queue.answer()
        assert (queue.under_way, request.done()) == (0, False)
        await asyncio.sleep(0.05)
        queue.free = 1
        async with asyncio.timeout(5.0):
            while not request.done():
                await queue.answer()
                await asyncio.sleep(0.01)
        assert len(await request) == 3

    asyncio.run(run())


class Response:
    """Serve's: a question under way."""

    def __init__(self, answer: Any) -> None:
        self._answer, self.given_up = answer, False

    def __await__(self) -> Any:
        return self._answer.__await__()

    def cancel(self) -> None:
        self.given_up = True


def test_questions_of_a_client_that_has_gone_are_given_up(students: dict[str, Handle]) -> None:
    async def run() -> None:
        under_way: list[Response] = []

        def send() -> Response:
            under_way.append(Response(asyncio.Event().wait()))
            return under_way[-1]

        handle = Handle(lambda: None)
        handle.answer.remote = lambda *_: send()  # type: ignore[method-assign]
        students["raystill-student-sums"] = handle
        asked = asyncio.create_task(Ingress(ServingConfig()).ask(card("sums"), [Question("one"), Question("two")]))
        while len(under_way) < 2:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert [response.given_up for response in under_way] == [True, True]

    asyncio.run(run())
