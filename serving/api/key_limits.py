"""Uses of keys in the last minute: requests, inputs and tokens, counted for all ingress replicas together.

A single ingress replica counts in its memory. Several ask one counter, a deployment beside them. Without its answer, each
allows its part.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import Any, Literal, Protocol

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter, RateLimiter, SlidingWindowCounterRateLimiter
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

Unit = Literal["requests", "inputs", "tokens"]
_TIMEOUT_S = 1.0
_logger = logging.getLogger(__name__)


class KeyLimits(Protocol):
    """Counts uses by key name. `limit`: uses in a minute."""

    async def count(self, unit: Unit, name: str, limit: int, cost: int) -> int | None:
        """Count a use, at most `limit`. Cost 0 only tests. Returns None, or if the limit is reached the seconds to wait."""
        ...

    async def spend(self, unit: Unit, name: str, limit: int, cost: int) -> None:
        """Count a use that has happened."""
        ...


class LimitCounter:
    """Counts in the memory of this process."""

    def __init__(self) -> None:
        moving, sums = MovingWindowRateLimiter(MemoryStorage()), SlidingWindowCounterRateLimiter(MemoryStorage())
        # The moving window keeps an entry for each unit: too many for inputs and tokens.
        self._limiters: dict[Unit, RateLimiter] = {"requests": moving, "inputs": sums, "tokens": sums}

    async def count(self, unit: Unit, name: str, limit: int, cost: int) -> int | None:
        """See KeyLimits."""
        limiter, item = self._limiters[unit], RateLimitItemPerMinute(limit)
        counted = limiter.hit(item, unit, name, cost=min(cost, limit)) if cost else limiter.test(item, unit, name)
        if await counted:
            return None
        window = await limiter.get_window_stats(item, unit, name)
        return max(1, math.ceil(window.reset_time - time.time()))

    async def spend(self, unit: Unit, name: str, limit: int, cost: int) -> None:
        """See KeyLimits."""
        limiter, item = self._limiters[unit], RateLimitItemPerMinute(limit)
        left = (await limiter.get_window_stats(item, unit, name)).remaining
        if left > 0:
            await limiter.hit(item, unit, name, cost=min(cost, left))


class SharedLimits:
    """Asks the counter of all ingress replicas."""

    def __init__(self, counter: Any, replicas: int) -> None:
        """
        Args:
            counter: Serve's handle of a LimitCounter.
            replicas: of the ingress.
        """
        self._counter, self._replicas = counter, replicas
        self._own = LimitCounter()

    async def count(self, unit: Unit, name: str, limit: int, cost: int) -> int | None:
        """See KeyLimits."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                seconds: int | None = await self._counter.count.remote(unit, name, limit, cost)
        except (TimeoutError, RayError, RayServeException) as error:
            _logger.warning("the counter of key limits does not answer: %r. This replica allows its part.", error)
            return await self._own.count(unit, name, max(1, limit // self._replicas), cost)
        return seconds

    async def spend(self, unit: Unit, name: str, limit: int, cost: int) -> None:
        """See KeyLimits."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await self._counter.spend.remote(unit, name, limit, cost)
        except (TimeoutError, RayError, RayServeException):  # `count` logs it
            await self._own.spend(unit, name, max(1, limit // self._replicas), cost)
