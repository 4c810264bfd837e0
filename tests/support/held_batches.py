"""A dynamic batcher in virtual time, whose batches end when the test ends them."""

from __future__ import annotations

import asyncio

from serving.engines.dynamic_batching import DynamicBatcher


class HeldBatches:
    """A batcher that doubles numbers, on a clock of its own. The test ends its batches."""

    def __init__(self, max_items: int, workers: int = 1, wait_s: float = 0.01) -> None:
        self.now = 1000.0
        self.batches: list[list[int]] = []
        self.waited: list[list[float]] = []
        self._gates: list[asyncio.Event] = []
        asyncio.get_running_loop().time = lambda: self.now  # type: ignore[method-assign]
        self._batcher = DynamicBatcher(self._run, max_items=max_items, workers=workers, wait_s=wait_s)

    async def submit(self, *items: int) -> list[asyncio.Task[int]]:
        tasks = [asyncio.create_task(self._batcher.submit(item)) for item in items]
        await self.advance(0.0)
        return tasks

    async def advance(self, seconds: float) -> None:
        """Move the clock, and let every task run until it waits."""
        self.now += seconds
        for _ in range(10):
            await asyncio.sleep(0)

    async def end(self, *batches: int) -> None:
        for batch in batches:
            self._gates[batch].set()
        await self.advance(0.0)

    async def _run(self, items: list[int], waited_s: list[float]) -> list[int]:
        gate = asyncio.Event()
        self.batches.append(items)
        self.waited.append(waited_s)
        self._gates.append(gate)
        await gate.wait()
        if -1 in items:
            raise RuntimeError("a bad batch")
        return [2 * item for item in items]
