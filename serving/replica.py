"""A replica: one student in one engine, or several of which those that were asked last are loaded."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from ray import serve

from pipelines.config.serving import ServingConfig
from pipelines.errors import UserError
from serving.engines.base import Engine
from serving.engines.select import start_engine
from serving.messages import Piece, Question, Reply, TextRequest, TooLong, UnavailableError
from serving.metrics import ReplicaMetrics
from serving.model_card import StudentCard

_logger = logging.getLogger(__name__)


class _Replica(ABC):
    @abstractmethod
    def _engine(self) -> Any:
        """A context that gives the engine of the student that is asked."""

    async def answer(self, question: Question) -> Reply | TooLong:
        """The student's answer to one question."""
        async with self._engine() as engine:
            reply: Reply | TooLong = await engine.answer(question)
            return reply

    async def write(self, order: TextRequest) -> Piece | TooLong:
        """The whole of one text."""
        async with self._engine() as engine:
            piece: Piece | TooLong = await engine.write(order)
            return piece

    async def stream(self, order: TextRequest) -> AsyncGenerator[Piece | TooLong, None]:
        """One text as it is written."""
        async with self._engine() as engine:
            pieces = engine.stream(order)
            try:
                async for piece in pieces:
                    yield piece
            finally:
                await pieces.aclose()


class StudentReplica(_Replica):
    """One copy of a student."""

    def __init__(self, card: StudentCard, serving: ServingConfig) -> None:
        self._own = start_engine(card, serving, ReplicaMetrics(card.id))
        # What Serve calls in the end. Of the object, not of its class: Python itself would call that again, and await nothing.
        self.__del__ = self._own.close

    @asynccontextmanager
    async def _engine(self) -> AsyncIterator[Engine]:
        yield self._own

    async def check_health(self) -> None:
        """Serve replaces a replica whose engine is dead or hangs."""
        await self._own.check_health()


class _Loaded:
    """An engine that is closed when it has been given up and nobody asks it any more."""

    def __init__(self, engine: Engine) -> None:
        self.engine: Engine | None = engine
        self.askers = 0
        self.closing: asyncio.Task[None] | None = None
        self.__del__ = self.close  # see StudentReplica

    @property
    def closed(self) -> bool:
        """Whether it has been given up."""
        return self.closing is not None

    async def close(self) -> None:
        """Free the engine's memory. Serve calls it, before it loads another."""
        if self.closing is None:
            self.closing = asyncio.create_task(self._close())
        # It goes on where the request goes away that another student is loaded for.
        await asyncio.shield(self.closing)

    async def _close(self) -> None:
        while self.askers:
            await asyncio.sleep(0.05)
        engine, self.engine = self.engine, None
        if engine is not None:
            await engine.close()


class SharedStudents(_Replica):
    """One copy of several students. `load` is decorated where the limit is known (serving/app.py): the student that was not asked for
    longest makes room."""

    def __init__(self, cards: Sequence[StudentCard], serving: ServingConfig) -> None:
        self._cards = {card.id: card for card in cards}
        self._serving = serving
        self._loaded: dict[str, _Loaded] = {}
        self._starting: dict[str, asyncio.Task[_Loaded]] = {}
        """Engines that Serve does not have yet."""

    async def load(self, student_id: str) -> _Loaded:
        """Start an engine; Serve keeps it, and ends it by `__del__`.

        The thread that starts one cannot be stopped. Where the request goes away meanwhile, the engine waits for the next one that asks for
        this student, or makes room for another student.
        """
        await self._make_room(student_id)
        starting = self._starting.get(student_id)
        if starting is None or _failed(starting):
            starting = self._starting[student_id] = asyncio.create_task(self._start(student_id))
        loaded = await asyncio.shield(starting)
        self._starting.pop(student_id, None)
        return loaded

    async def _start(self, student_id: str) -> _Loaded:
        metrics = ReplicaMetrics(student_id)
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
        self._loaded[student_id] = _Loaded(engine)
        return self._loaded[student_id]

    async def _make_room(self, student_id: str) -> None:
        """Close what was started for requests that have gone, but this student, and wait for all that is being closed: Serve counts
        neither."""
        for other, starting in list(self._starting.items()):
            if other == student_id:
                continue
            await asyncio.wait([starting])
            self._starting.pop(other, None)
            if not _failed(starting):
                await starting.result().close()
        if closing := [loaded.closing for loaded in self._loaded.values() if loaded.closing is not None]:
            await asyncio.wait(closing)

    @asynccontextmanager
    async def _engine(self) -> AsyncIterator[Engine]:
        student_id = serve.get_multiplexed_model_id()
        if student_id not in self._cards:  # before `load`, for which another student would make room
            raise UnavailableError(student_id)
        loaded = await self.load(student_id)
        loaded.askers += 1
        try:
            if loaded.engine is None:
                raise UnavailableError(student_id)
            yield loaded.engine
        finally:
            loaded.askers -= 1

    async def check_health(self) -> None:
        """Serve replaces a replica one of whose engines is dead or hangs."""
        for loaded in list(self._loaded.values()):
            if loaded.engine is not None and not loaded.closed:
                await loaded.engine.check_health()


def _failed(starting: asyncio.Task[Any]) -> bool:
    return starting.done() and (starting.cancelled() or starting.exception() is not None)
