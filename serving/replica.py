"""Replicas: one student in one engine, or several students of which the most recently used ones are loaded."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeVar

from ray import serve

from pipelines.config.serving import ServingConfig
from pipelines.errors import UserError
from serving.engines.base import Engine
from serving.engines.select import start_engine
from serving.messages import (
    Batch,
    Failed,
    Outcome,
    Piece,
    Question,
    Reply,
    TextRequest,
    TooLong,
    UnavailableError,
)
from serving.metrics import ReplicaMetrics
from serving.model_card import StudentCard
from serving.residency import Residency

_CLOSE_POLL_S = 0.05
_logger = logging.getLogger(__name__)
_Item = TypeVar("_Item", Question, TextRequest)


class _Replica(ABC):
    @abstractmethod
    def _engine(self) -> AbstractAsyncContextManager[Engine]:
        """The engine of the student that the current request names."""

    def __init__(self) -> None:
        self._id = uuid.uuid4().hex

    async def answer(self, questions: Sequence[Question]) -> Batch[Reply]:
        """The answer to each question; see Engine."""
        async with self._engine() as engine:
            return Batch(await _each(engine.answer, questions), self._id, engine.computed, engine.continuous)

    async def write(self, requests: Sequence[TextRequest]) -> Batch[Piece]:
        """A whole text for each request; see Engine."""
        async with self._engine() as engine:
            return Batch(await _each(engine.write, requests), self._id, engine.computed, engine.continuous)

    async def stream(self, request: TextRequest) -> AsyncGenerator[Batch[Piece] | Piece | TooLong | Failed, None]:
        """An empty Batch, then the pieces; see Engine."""
        async with self._engine() as engine:
            yield Batch((), self._id, engine.computed, engine.continuous)
            pieces = engine.stream(request)
            try:
                async for piece in pieces:
                    yield piece
            finally:
                await pieces.aclose()


class StudentReplica(_Replica):
    """One copy of a student."""

    def __init__(self, card: StudentCard, serving: ServingConfig) -> None:
        super().__init__()
        self._only = start_engine(card, serving, ReplicaMetrics(card.id))
        # Serve awaits it at the end. It is an attribute of the object: Python would call a method of the class too, and await nothing.
        self.__del__ = self._only.close

    @asynccontextmanager
    async def _engine(self) -> AsyncIterator[Engine]:
        yield self._only

    async def check_health(self) -> None:
        """Serve replaces a replica whose engine is dead or hangs."""
        await self._only.check_health()


class LoadedEngine:
    """An engine that closes once it has been dropped and no request uses it."""

    def __init__(self, engine: Engine, start_s: float = 0.0) -> None:
        self.engine: Engine | None = engine
        self.start_s = start_s
        """Seconds that its start took."""
        self.users = 0
        """Requests that use it now."""
        self.closing: asyncio.Task[None] | None = None
        self.__del__ = self.close  # see StudentReplica

    @property
    def dropped(self) -> bool:
        """True once it is closing or closed."""
        return self.closing is not None

    async def close(self) -> None:
        """Free the engine's memory. Serve awaits it before it loads another student."""
        if self.closing is None:
            self.closing = asyncio.create_task(self._close())
        # Closing continues if the request is cancelled that the other student is loaded for.
        await asyncio.shield(self.closing)

    async def _close(self) -> None:
        while self.users:
            await asyncio.sleep(_CLOSE_POLL_S)
        engine, self.engine = self.engine, None
        if engine is not None:
            await engine.close()


class SharedStudents(_Replica):
    """One copy of several students. serving/app.py limits how many `load` keeps; Serve drops the least recently used one."""

    def __init__(self, cards: Sequence[StudentCard], serving: ServingConfig) -> None:
        super().__init__()
        self._cards = {card.id: card for card in cards}
        self._serving = serving
        self._residency = Residency(serving.students_per_replica or len(cards))
        self._loaded: dict[str, LoadedEngine] = {}
        self._starting: dict[str, asyncio.Task[LoadedEngine]] = {}
        """Engines that Serve has not received yet."""

    async def load(self, student_id: str) -> LoadedEngine:
        """Start an engine. Serve keeps it, and ends it through `__del__`.

        The thread that starts an engine cannot be stopped. If the request is cancelled meanwhile, the engine is kept for the next request
        for this student, or closed when another student is loaded.
        """
        await self._make_room(student_id)
        starting = self._starting.get(student_id)
        if starting is None or _has_failed(starting):
            starting = self._starting[student_id] = asyncio.create_task(self._start(student_id))
        loaded = await asyncio.shield(starting)
        self._starting.pop(student_id, None)
        return loaded

    async def _start(self, student_id: str) -> LoadedEngine:
        metrics, began = ReplicaMetrics(student_id), time.monotonic()
        try:
            engine = await asyncio.to_thread(start_engine, self._cards[student_id], self._serving, metrics)
        except UserError as error:
            _logger.error("%s: %s", student_id, error)
            raise UnavailableError(student_id) from error
        try:
            await engine.check_health()
        except Exception as error:
            _logger.error("%s: %s", student_id, error)
            await engine.close()
            raise UnavailableError(student_id) from error
        self._loaded[student_id] = LoadedEngine(engine, time.monotonic() - began)
        return self._loaded[student_id]

    async def _make_room(self, student_id: str) -> None:
        """Close engines of other students that cancelled requests started, and wait for all that are closing. Serve counts neither."""
        for other, starting in list(self._starting.items()):
            if other == student_id:
                continue
            await asyncio.wait([starting])
            self._starting.pop(other, None)
            if not _has_failed(starting):
                await starting.result().close()
        if closing := [loaded.closing for loaded in self._loaded.values() if loaded.closing is not None]:
            await asyncio.wait(closing)

    @asynccontextmanager
    async def _engine(self) -> AsyncIterator[Engine]:
        student_id = serve.get_multiplexed_model_id()
        if student_id not in self._cards:  # before `load`, which would drop another student
            raise UnavailableError(student_id)
        with await self._residency.entered(student_id):
            loaded = await self.load(student_id)
            self._residency.note(student_id, loaded.start_s)
        loaded.users += 1
        try:
            if loaded.engine is None:
                raise UnavailableError(student_id)
            yield loaded.engine
        finally:
            loaded.users -= 1

    async def check_health(self) -> None:
        """Serve replaces a replica if one of its engines is dead or hangs."""
        for loaded in list(self._loaded.values()):
            if loaded.engine is not None and not loaded.dropped:
                await loaded.engine.check_health()


async def _each(
    call: Callable[[_Item], Awaitable[Outcome | TooLong]], items: Sequence[_Item]
) -> Sequence[Outcome | TooLong | Failed]:
    """The outcome of each item. An error costs its own item."""
    outcomes = await asyncio.gather(*(call(item) for item in items), return_exceptions=True)
    found: list[Outcome | TooLong | Failed] = []
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            _logger.error("an input failed", exc_info=outcome)
            found.append(Failed())
        elif isinstance(outcome, BaseException):  # the call was cancelled
            raise outcome
        else:
            found.append(outcome)
    return found


def _has_failed(starting: asyncio.Task[LoadedEngine]) -> bool:
    return starting.done() and (starting.cancelled() or starting.exception() is not None)
