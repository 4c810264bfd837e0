"""What an engine with paid requests reports while it works: the tokens that they have used. In return it learns of an interruption.

After an interruption nothing more is sent. Rows whose requests are answered get their outcome; the others get none, like rows that the
budget skips.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from pipelines.label.teachers.base import NOTHING_USED, Teacher, TokensUsed

EVERY_S = 0.5
_T = TypeVar("_T")


class SpendingReport:
    """Of one engine, in its event loop. Does nothing for teachers without a meter of their own."""

    def __init__(self, teacher: Teacher, engine: str, health: Any) -> None:
        """`engine`: its name. `health`: handle of `health_actor`."""
        self._engine, self._health, self.interrupted = engine, health, False
        self._meter = teacher.meter if teacher.meters_budget else None
        self._reported = self._meter.used if self._meter else NOTHING_USED
        self._repeating = asyncio.ensure_future(self._repeat()) if self._meter else None

    async def report(self) -> None:
        """Report what was used since the last call. It is durable when this returns."""
        if self._meter is None:
            return
        used = self._meter.used
        more = TokensUsed(*(now - before for now, before in zip(used, self._reported, strict=True)))
        self._reported = used
        if await self._health.spent.remote(self._engine, more, self._meter.reserved):
            self.interrupted = True
            self._meter.stop()

    async def unless_interrupted(self, rows: Sequence[Coroutine[Any, Any, _T]]) -> list[_T]:
        """The results of rows, in their order; after an interruption without those that have no answer. Raises their first error."""
        tasks = [asyncio.ensure_future(row) for row in rows]
        pending = set(tasks)
        while pending:
            ends = self.interrupted and self._meter is not None and not any(self._meter.reserved)
            timeout = None if self._meter is None else EVERY_S
            done, pending = await asyncio.wait(pending, timeout=timeout, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()  # raises its error
            if ends and pending:
                for task in pending:  # they wait for their next attempt, or for the rate limit
                    task.cancel()
                break
        return [task.result() for task in tasks if task.done() and not task.cancelled()]

    async def _repeat(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            await self.report()
