"""How many requests an endpoint gets at a time: as many as it takes.

The limit follows the rule that keeps networks from collapsing (additive increase, multiplicative decrease; Chiu and Jain 1989, the rule
of TCP): a refusal for the rate halves it, a whole window of successes raises it by one. What an endpoint says in Retry-After holds for
the whole teacher: no request is sent until then.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

_SMALLEST_WINDOW = 16
"""Successes before the limit rises, where fewer requests than this are allowed at a time: an endpoint that takes one at a time would
otherwise refuse every third."""


class AdaptiveLimit:
    """The limit alone, without waiting or a clock. A request notes the `epoch` in which it was sent and reports with it.

    Each halving begins an epoch. What was sent in an earlier one says nothing about the present limit, so that the many refusals of one
    round trip halve it once.
    """

    def __init__(self, maximum: int) -> None:
        self.maximum = self.value = maximum
        self.lowest = maximum
        """The smallest it has been."""
        self.epoch = 0
        self._successes = 0

    def succeeded(self, epoch: int) -> None:
        """A request sent in `epoch` was answered. As many as the limit allows at a time, and at least 16, raise it by one."""
        if epoch != self.epoch or self.value >= self.maximum:
            return
        self._successes += 1
        if self._successes >= max(self.value, _SMALLEST_WINDOW):
            self.value += 1
            self._successes = 0

    def overloaded(self, epoch: int) -> None:
        """A request sent in `epoch` was refused because there are too many."""
        if epoch != self.epoch:
            return
        self.value = max(1, self.value // 2)
        self.lowest = min(self.lowest, self.value)
        self.epoch += 1
        self._successes = 0


class Admission:
    """Lets requests through one by one: not above the limit, and none during a pause. Used from one event loop."""

    def __init__(self, limit: AdaptiveLimit, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: seconds, going up."""
        self.limit = limit
        self._clock = clock
        self._in_flight = 0
        self._paused_until = float("-inf")
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def in_flight(self) -> int:
        """Requests let through that have not come back."""
        return self._in_flight

    @property
    def pause_s(self) -> float:
        """Seconds until requests may be sent again; 0 where they may now."""
        return max(0.0, self._paused_until - self._clock())

    def pause(self, seconds: float) -> None:
        """Send nothing for so long. Of several pauses the one that ends last counts."""
        self._paused_until = max(self._paused_until, self._clock() + seconds)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[int]:
        """Waits for its turn and holds a place while the block runs. Gives the epoch in which the request is sent."""
        await self._turn()
        self._in_flight += 1
        try:
            yield self.limit.epoch
        finally:
            self._in_flight -= 1
            self._wake()

    async def _turn(self) -> None:
        try:
            while True:
                if self._in_flight >= self.limit.value:
                    await self._until_woken()
                elif (pause := self.pause_s) > 0:
                    await asyncio.sleep(pause)
                else:
                    return
        except asyncio.CancelledError:
            self._wake()  # the place that this one may have been woken for is the next one's
            raise

    async def _until_woken(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._waiting:  # cancelled, not woken
                self._waiting.remove(waiter)

    def _wake(self) -> None:
        free = self.limit.value - self._in_flight
        while free > 0 and self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                free -= 1
