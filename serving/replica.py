"""A replica: one student in one engine, or several of which those that were asked last are loaded."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from ray import serve

from pipelines.config_serving import ServingConfig
from serving.cards import StudentCard
from serving.engines.base import Engine
from serving.engines.choice import start_engine
from serving.metrics import ReplicaMetrics
from serving.questions import Piece, Question, Reply, TextOrder, TooLong


class _Replica(ABC):
    @abstractmethod
    def _engine(self) -> Any:
        """A context that gives the engine of the student that is asked."""

    async def answer(self, question: Question) -> Reply | TooLong:
        """The student's answer to one question."""
        async with self._engine() as engine:
            reply: Reply | TooLong = await engine.answer(question)
            return reply

    async def write(self, order: TextOrder) -> Piece | TooLong:
        """The whole of one text."""
        async with self._engine() as engine:
            piece: Piece | TooLong = await engine.write(order)
            return piece

    async def stream(self, order: TextOrder) -> AsyncGenerator[Piece | TooLong, None]:
        """One text as it is written."""
        async with self._engine() as engine:
            pieces = engine.stream(order)
            try:
                async for piece in pieces:
                    yield piece
            finally:
                await pieces.aclose()

    async def engine_name(self) -> str:
        """Which engine answers."""
        async with self._engine() as engine:
            return str(engine.name)


class StudentReplica(_Replica):
    """One copy of a student."""

    def __init__(self, card: StudentCard, serving: ServingConfig) -> None:
        self._own = start_engine(card, serving, ReplicaMetrics(card.id))

    @asynccontextmanager
    async def _engine(self) -> AsyncIterator[Engine]:
        yield self._own

    async def check_health(self) -> None:
        """Serve replaces a replica whose engine is dead or hangs."""
        await self._own.check_health()

    async def __del__(self) -> None:
        if own := getattr(self, "_own", None):
            await own.close()


class _Loaded:
    """An engine that is closed when it has been given up and nobody asks it any more."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.askers = 0
        self.closed = False

    async def __del__(self) -> None:
        self.closed = True
        while self.askers:
            await asyncio.sleep(0.05)
        await self.engine.close()


class SharedStudents(_Replica):
    """One copy of several students. `load` is decorated where the limit is known (serving/app.py): the student that was not asked for
    longest makes room."""

    def __init__(self, cards: Sequence[StudentCard], serving: ServingConfig) -> None:
        self._cards = {card.id: card for card in cards}
        self._serving = serving
        self._loaded: dict[str, _Loaded] = {}

    async def load(self, student_id: str) -> _Loaded:
        """Start an engine; Serve keeps it, and ends it by `__del__`."""
        metrics = ReplicaMetrics(student_id)
        engine = await asyncio.to_thread(start_engine, self._cards[student_id], self._serving, metrics)
        self._loaded[student_id] = _Loaded(engine)
        return self._loaded[student_id]

    @asynccontextmanager
    async def _engine(self) -> AsyncIterator[Engine]:
        loaded = await self.load(serve.get_multiplexed_model_id())
        loaded.askers += 1
        try:
            yield loaded.engine
        finally:
            loaded.askers -= 1

    async def check_health(self) -> None:
        """Serve replaces a replica one of whose engines is dead or hangs."""
        for loaded in list(self._loaded.values()):
            if not loaded.closed:
                await loaded.engine.check_health()
