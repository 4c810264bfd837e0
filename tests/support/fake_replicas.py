"""Serve's handles of student deployments, without Ray: what their calls return is a function's decision."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from ray.serve.exceptions import BackPressureError

from pipelines.config.serving import ServingConfig
from pipelines.students.decoding import Decoded
from serving.messages import Question, Reply
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
