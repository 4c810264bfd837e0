"""Dynamic batching in virtual time: which items share a batch, and when it starts."""

import asyncio
from collections.abc import Callable

import pytest

from serving.engines.dynamic_batching import PATIENCE, QUIET, DynamicBatcher, Size


class HeldBatches:
    """A batcher that doubles numbers, on a clock of its own. The test ends its batches."""

    def __init__(self, max_items: int, workers: int = 1, wait_s: float = 0.01) -> None:
        self.now = 1000.0
        self.batches: list[list[int]] = []
        self.waited: list[list[float]] = []
        self.answer: list[Callable[[int, int], None]] = []
        """Of each batch: answers an item early."""
        self._gates: list[asyncio.Event] = []
        asyncio.get_running_loop().time = lambda: self.now  # type: ignore[method-assign]
        self._batcher = DynamicBatcher(self._run, max_items=max_items, workers=workers, wait_s=wait_s)

    async def submit(self, *items: int, **size: float) -> list[asyncio.Task[int]]:
        tasks = [asyncio.create_task(self._batcher.submit(item, Size(**size))) for item in items]
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

    async def _run(self, items: list[int], waited_s: list[float], answer: Callable[[int, int], None]) -> list[int]:
        gate = asyncio.Event()
        self.batches.append(items)
        self.waited.append(waited_s)
        self.answer.append(answer)
        self._gates.append(gate)
        await gate.wait()
        if -1 in items:
            raise RuntimeError("a bad batch")
        return [2 * item for item in items]


pytestmark = pytest.mark.anyio


async def test_items_that_arrive_during_a_batch_form_the_next() -> None:
    held = HeldBatches(8)
    first = await held.submit(1)
    await held.advance(0.01)
    later = []
    for item in range(2, 8):  # with more time between them than an item waits for others
        later += await held.submit(item)
        await held.advance(0.02)
    await held.end(0)
    await held.advance(0.05)
    await held.end(1)
    assert held.batches == [[1], [2, 3, 4, 5, 6, 7]]
    assert await asyncio.gather(*first, *later) == [2, 4, 6, 8, 10, 12, 14]
    assert held.waited[1] == pytest.approx([0.17, 0.15, 0.13, 0.11, 0.09, 0.07])


async def test_workers_run_in_parallel_and_full_batches_at_once() -> None:
    held = HeldBatches(4, workers=2)
    early = await held.submit(*range(4))
    assert held.batches == [[0]], "the first item waits for no other"
    await held.advance(0.01)
    assert held.batches[1:] == [[1, 2, 3]], "the last worker waits for more items"
    late = await held.submit(*range(4, 12))
    await held.advance(1.0)
    assert len(held.batches) == 2, "both workers are busy"
    await held.end(0)
    assert held.batches[2] == [4, 5, 6, 7], "a worker takes at most max_items"
    await held.end(1)
    await held.end(2, 3)
    assert await asyncio.gather(*early, *late) == [2 * item for item in range(12)]
    held = HeldBatches(2, wait_s=0.2)
    await held.submit(1, 2)
    assert held.batches == [[1, 2]], "a full one starts at once"
    await held.end(0)
    await held.submit(3)
    await held.advance(0.19)
    assert len(held.batches) == 1
    await held.advance(0.02)
    assert held.batches == [[1, 2], [3]]
    await held.submit(4, 5)
    await held.advance(1.0)
    await held.end(1)
    assert held.batches[2:] == [[4, 5]], "nor does it wait for the client that was answered"


async def test_a_batch_waits_for_clients_that_come_back() -> None:
    held = HeldBatches(8, wait_s=0.0)
    await held.submit(0)
    await held.submit(1, 2, 3)
    await held.end(0)
    waiting = await held.submit(4)
    await held.advance(1.0)
    await held.end(1)
    for item in (5, 6):  # within QUIET of each other
        await held.advance(0.1)
        waiting += await held.submit(item)
        assert len(held.batches) == 2
    await held.submit(7)
    assert held.batches == [[0], [1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize(("every_s", "starts_after"), [(None, QUIET), (0.02, PATIENCE)], ids=["quiet", "busy"])
async def test_the_wait_for_answered_clients_is_limited(every_s: float | None, starts_after: float) -> None:
    held = HeldBatches(100)
    first = await held.submit(*range(50))
    await held.advance(0.01)
    waiting = await held.submit(50)
    await held.advance(1.0)
    await held.end(0)
    ended = held.now
    assert all(task.done() for task in first)
    while len(held.batches) < 2:
        assert held.now < ended + starts_after + 0.011
        await held.advance(0.01)
        if every_s and round((held.now - ended) / every_s, 6).is_integer():
            waiting += await held.submit(51)
    assert held.now >= ended + starts_after - 1e-6


async def test_a_batch_holds_items_of_like_lengths() -> None:
    held = HeldBatches(8)
    await held.submit(0, steps=2)
    await held.submit(1, 2, steps=64)
    late = await held.submit(3, read=900, steps=64)
    await held.submit(4, steps=100)
    for batch in (0, 1):
        await held.advance(1.0)
        await held.end(batch)
    await held.advance(1.0)
    assert held.batches == [[0], [1, 2, 4], [3]]
    await held.end(2)
    assert await asyncio.gather(*late) == [6]
    held = HeldBatches(4)
    await held.submit(1, 2, 3, 4, steps=64)
    await held.submit(5, steps=32)
    short = await held.submit(6, steps=2)
    assert held.batches == [[1, 2, 3, 4], [6]]
    await held.submit(7, steps=2)
    await held.end(1)
    assert held.batches[2:] == [[7]], "the express worker takes the next one"
    assert await asyncio.gather(*short) == [12]


async def test_items_are_answered_and_cancelled_by_themselves() -> None:
    held = HeldBatches(2)
    early, late = await held.submit(1, 2)
    held.answer[0](0, 2)
    await held.advance(0.0)
    assert (early.done(), late.done()) == (True, False)
    await held.end(0)
    assert [await early, await late] == [2, 4]
    held = HeldBatches(4)
    running = await held.submit(1, 2)
    await held.advance(0.01)
    waiting = await held.submit(3, 4)
    running[0].cancel()
    waiting[0].cancel()
    await held.end(0)
    await held.advance(1.0)
    await held.end(1)
    assert held.batches == [[1, 2], [4]], "cancelled before its batch, it is in none"
    assert [await running[1], await waiting[1]] == [4, 8]


async def test_an_error_reaches_only_its_own_batch() -> None:
    held = HeldBatches(2)
    bad = await held.submit(-1, 1)
    (good,) = await held.submit(2)
    await held.end(0)
    for task in bad:
        with pytest.raises(RuntimeError, match="a bad batch"):
            await task
    await held.advance(1.0)
    await held.end(1)
    assert await good == 4
