"""How many requests an endpoint gets at the same time: as many as it takes.

The limit follows additive increase and multiplicative decrease, TCP's rule against congestion (Chiu and Jain 1989). A refusal for the
rate halves it, a window of successes raises it by one. Retry-After holds for the whole teacher: until then it sends nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

_SMALLEST_WINDOW = 16
"""Successes before the limit rises, even if it allows fewer requests. An endpoint that takes one request at a time would otherwise
refuse every third."""


class AdaptiveLimit:
    """The limit, without waiting and without a clock.

    Every halving begins an epoch. A request reports with the epoch in which it was sent, and reports of earlier epochs are ignored:
    they say nothing about the present limit. So the many refusals of one round trip halve it once.
    """

    def __init__(self, maximum: int) -> None:
        self.maximum = self.value = maximum
        self.epoch = 0
        self._successes = 0

    def succeeded(self, epoch: int) -> None:
        """A request was answered. As many successes as the limit, and at least 16, raise it by one."""
        if epoch != self.epoch or self.value >= self.maximum:
            return
        self._successes += 1
        if self._successes >= max(self.value, _SMALLEST_WINDOW):
            self.value += 1
            self._successes = 0

    def overloaded(self, epoch: int) -> None:
        """A request was refused because there are too many."""
        if epoch != self.epoch:
            return
        self.value = max(1, self.value // 2)
        self.epoch += 1
        self._successes = 0


class Admission:
    """Admits requests up to the limit, and none during a pause. For one event loop."""

    def __init__(self, limit: AdaptiveLimit, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: monotonic seconds."""
        self.limit = limit
        self._clock = clock
        self._in_flight = 0
        self._paused_until = float("-inf")
        self._freed = asyncio.Condition()
        """A place is free. Its lock is never held across a wait, so acquiring it does not wait either."""

    @property
    def in_flight(self) -> int:
        """Admitted requests that have not returned."""
        return self._in_flight

    @property
    def pause_s(self) -> float:
        """Seconds until requests may be sent; 0 outside a pause."""
        return max(0.0, self._paused_until - self._clock())

    def pause(self, seconds: float) -> None:
        """Send nothing for this long. Of several pauses the one that ends last counts."""
        self._paused_until = max(self._paused_until, self._clock() + seconds)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[int]:
        """Wait for a place and hold it during the block. Yields the epoch in which the request is sent."""
        await self._acquire()
        try:
            yield self.limit.epoch
        finally:
            self._in_flight -= 1
            await self._notify()

    async def _acquire(self) -> None:
        try:
            while True:
                async with self._freed:
                    await self._freed.wait_for(lambda: self._in_flight < self.limit.value)
                    pause = self.pause_s
                    if not pause:
                        self._in_flight += 1
                        return
                await asyncio.sleep(pause)
        except asyncio.CancelledError:
            await self._notify()  # the place that this waiter was woken for goes to the next one
            raise

    async def _notify(self) -> None:
        """Wake as many waiters as there are free places."""
        async with self._freed:
            self._freed.notify(max(self.limit.value - self._in_flight, 0))
