"""Batches that form while others run: what has come meanwhile is the next batch.

`serve.batch` closes a batch when its waiting time is over, whether or not the one before still runs. Under load it then queues batches of
one or two: at 32 clients 890 texts made 523 batches (two cores, T5-small's shape).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

QUIET, PATIENCE = 0.15, 0.25
"""Of what the last batch took: a lane that it leaves free waits for those whom it has answered, since one that comes too late waits for a
whole batch. It begins when as many have come, when nobody has come for QUIET of that time, or after PATIENCE of it."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(eq=False)
class _Asked(Generic[Item, Result]):
    item: Item
    answer: asyncio.Future[Result]
    since: float = field(default_factory=time.monotonic)


class DynamicBatcher(Generic[Item, Result]):
    """Runs what is asked in batches, some of them side by side. To be used in one event loop."""

    def __init__(
        self,
        run: Callable[[list[Item], list[float]], Awaitable[Sequence[Result]]],
        *,
        most: int,
        lanes: int,
        wait_s: float,
    ) -> None:
        """
        Args:
            run: items, and the seconds that each has waited -> a result for each.
            most: items under way at a time, in all lanes together.
            lanes: batches that run side by side.
            wait_s: how long an item waits at least for others before it takes the last free lane.
        """
        self._run, self._wait_s = run, wait_s
        self._freed = self._took_s = 0.0
        self._expected = 0
        """Of those who were answered last, how many have not asked again."""
        self._free = min(lanes, most)
        self._most = math.ceil(most / self._free)
        self._waiting: deque[_Asked[Item, Result]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, item: Item) -> Result:
        """The result of one item. Cancelled before its batch begins, it is in none; cancelled later, it disturbs nobody."""
        asked: _Asked[Item, Result] = _Asked(item, asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        self._expected -= 1
        self._begin()
        try:
            return await asked.answer
        finally:
            if asked in self._waiting:  # cancelled
                self._waiting.remove(asked)

    def _begin(self) -> None:
        """Start what can be started."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting and self._free:
            left_s = self._begins() - time.monotonic()
            if self._free == 1 and len(self._waiting) < self._most and left_s > 0:
                self._timer = asyncio.get_running_loop().call_later(left_s, self._begin)
                return
            # Lanes that are free share what waits.
            size = min(self._most, math.ceil(len(self._waiting) / self._free))
            self._free -= 1
            self._tasks.add(asyncio.create_task(self._lane([self._waiting.popleft() for _ in range(size)])))

    def _begins(self) -> float:
        """When the last free lane takes what waits, if nobody else comes."""
        earliest = self._waiting[0].since + self._wait_s
        if self._expected <= 0:
            return earliest
        quiet = max(self._waiting[-1].since, self._freed) + QUIET * self._took_s
        return max(earliest, min(quiet, self._freed + PATIENCE * self._took_s))

    async def _lane(self, batch: list[_Asked[Item, Result]]) -> None:
        began = time.monotonic()
        try:
            results = await self._run([asked.item for asked in batch], [began - asked.since for asked in batch])
            for asked, result in zip(batch, results, strict=True):
                if not asked.answer.done():
                    asked.answer.set_result(result)
        except Exception as error:  # noqa: BLE001 each who asked gets it
            for asked in batch:
                if not asked.answer.done():
                    asked.answer.set_exception(error)
        finally:
            self._tasks.remove(asyncio.current_task())  # type: ignore[arg-type]
            self._free += 1
            self._freed = time.monotonic()
            self._took_s, self._expected = self._freed - began, len(batch)
            self._begin()
