"""Batches that form while others run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from serving.engines.dynamic_batching import DynamicBatcher


class Held:
    """Doubles numbers, in batches that end when they are told to."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.waited: list[list[float]] = []
        self.gates: list[asyncio.Event] = []

    async def run(self, items: list[int], waited_s: list[float]) -> list[int]:
        gate = asyncio.Event()
        self.batches.append(items)
        self.waited.append(waited_s)
        self.gates.append(gate)
        await gate.wait()
        if -1 in items:
            raise RuntimeError("a bad batch")
        return [2 * item for item in items]

    async def begun(self, batches: int) -> None:
        async with asyncio.timeout(10.0):
            while len(self.batches) < batches:
                await asyncio.sleep(0.001)

    def end(self, batch: int) -> None:
        self.gates[batch].set()


def ask(batches: DynamicBatcher[int, int], *items: int) -> list[asyncio.Future[int]]:
    return [asyncio.ensure_future(batches.ask(item)) for item in items]


def in_a_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())

    run.__name__ = test.__name__
    return run


@in_a_loop
async def test_what_comes_while_a_batch_runs_is_one_batch() -> None:
    held = Held()
    batches = DynamicBatcher(held.run, most=8, lanes=1, wait_s=0.001)
    first = ask(batches, 1)
    await held.begun(1)
    later = []
    for item in range(2, 8):  # each by itself, and each longer than an item waits for others
        later += ask(batches, item)
        await asyncio.sleep(0.003)
    held.end(0)
    await held.begun(2)
    held.end(1)
    assert held.batches == [[1], [2, 3, 4, 5, 6, 7]]
    assert await asyncio.gather(*first, *later) == [2, 4, 6, 8, 10, 12, 14]
    assert held.waited[1][0] > held.waited[1][-1] > 0


@in_a_loop
async def test_lanes_run_side_by_side() -> None:
    held = Held()
    batches = DynamicBatcher(held.run, most=8, lanes=2, wait_s=0.01)
    asked = ask(batches, *range(4))
    await held.begun(2)
    assert held.batches == [[0], [1, 2, 3]], "the first waits for nobody, those that take the last lane for each other"
    late = ask(batches, *range(4, 12))
    await asyncio.sleep(0.03)
    assert len(held.batches) == 2, "both lanes are taken"
    held.end(0)
    await held.begun(3)
    assert held.batches[2] == [4, 5, 6, 7], "no more than a lane's share of `most`"
    held.end(1)
    await held.begun(4)
    held.end(2)
    held.end(3)
    assert await asyncio.gather(*asked, *late) == [2 * item for item in range(12)]


@in_a_loop
async def test_a_full_batch_waits_for_nobody_and_another_until_its_time_is_over() -> None:
    held = Held()
    batches = DynamicBatcher(held.run, most=2, lanes=1, wait_s=0.2)
    asked = ask(batches, 1, 2)
    await held.begun(1)
    assert held.waited[0][0] < 0.2
    held.end(0)
    asked += ask(batches, 3)
    await held.begun(2)
    assert held.waited[1][0] >= 0.2
    held.end(1)
    assert await asyncio.gather(*asked) == [2, 4, 6]


@in_a_loop
async def test_those_who_were_answered_and_ask_again_soon_are_in_the_next_batch() -> None:
    """It begins when as many have come again, and not later."""
    held = Held()
    batches = DynamicBatcher(held.run, most=8, lanes=1, wait_s=0.0)
    asked = ask(batches, 0)
    await held.begun(1)
    asked += ask(batches, 1, 2, 3)
    held.end(0)
    await held.begun(2)
    waiting = ask(batches, 4)
    await asyncio.sleep(1.5)  # a quarter of which it would wait for all of them
    held.end(1)
    ended = time.monotonic()
    for item in (5, 6, 7):  # 90 ms in all, each after less than QUIET
        await asyncio.sleep(0.03)
        waiting += ask(batches, item)
    await held.begun(3)
    assert time.monotonic() - ended < 0.3
    assert held.batches == [[0], [1, 2, 3], [4, 5, 6, 7]]
    held.end(2)
    assert await asyncio.gather(*asked, *waiting) == [0, 2, 4, 6, 8, 10, 12, 14]


@pytest.mark.parametrize(("again_s", "limit"), [(1.0, 0.15), (0.02, 0.25)], ids=["nobody comes", "they keep coming"])
def test_patience_with_those_who_were_answered_has_an_end(again_s: float, limit: float) -> None:
    async def run() -> None:
        held = Held()
        batches = DynamicBatcher(held.run, most=100, lanes=1, wait_s=0.01)
        asked = ask(batches, *range(50))
        await held.begun(1)
        assert held.batches == [list(range(50))]
        waiting = ask(batches, 50)
        await asyncio.sleep(0.5)
        held.end(0)
        await asyncio.gather(*asked)
        ended = time.monotonic()
        due = ended + again_s
        while len(held.batches) < 2:
            await asyncio.sleep(0.002)
            if time.monotonic() > due:
                waiting += ask(batches, 51)
                due += again_s
        assert limit * 0.5 * 0.9 < time.monotonic() - ended < limit * 0.5 + 0.3
        held.end(1)
        await waiting[0]

    asyncio.run(run())


@in_a_loop
async def test_a_full_batch_does_not_wait_for_those_who_were_answered() -> None:
    held = Held()
    batches = DynamicBatcher(held.run, most=2, lanes=1, wait_s=0.0)
    first = ask(batches, 1)
    await held.begun(1)
    asked = ask(batches, 2, 3)
    await asyncio.sleep(1.0)
    held.end(0)
    await first[0]
    await asyncio.sleep(0)
    assert held.batches == [[1], [2, 3]]
    held.end(1)
    assert await asyncio.gather(*asked) == [4, 6]


@in_a_loop
async def test_fewer_places_than_lanes() -> None:
    held = Held()
    batches = DynamicBatcher(held.run, most=1, lanes=4, wait_s=0.0)
    asked = ask(batches, 1, 2)
    await held.begun(1)
    held.end(0)
    await held.begun(2)
    held.end(1)
    assert await asyncio.gather(*asked) == [2, 4]
    assert held.batches == [[1], [2]]


@in_a_loop
async def test_what_is_cancelled_before_its_batch_is_in_none_and_later_disturbs_nobody() -> None:
    held = Held()
    batches = DynamicBatcher(held.run, most=4, lanes=1, wait_s=0.01)
    running = ask(batches, 1, 2)
    await held.begun(1)
    waiting = ask(batches, 3, 4)
    await asyncio.sleep(0)
    running[0].cancel()
    waiting[0].cancel()
    await asyncio.sleep(0)
    held.end(0)
    await held.begun(2)
    held.end(1)
    assert held.batches == [[1, 2], [4]]
    assert [await running[1], await waiting[1]] == [4, 8]


@in_a_loop
async def test_an_error_reaches_its_own_batch_alone() -> None:
    held = Held()
    batches = DynamicBatcher(held.run, most=2, lanes=1, wait_s=0.01)
    bad = ask(batches, -1, 1)
    await held.begun(1)
    good = ask(batches, 2)
    held.end(0)
    for task in bad:
        with pytest.raises(RuntimeError, match="a bad batch"):
            await task
    await held.begun(2)
    held.end(1)
    assert await good[0] == 4
