from __future__ import annotations

import asyncio
from collections import deque

import pytest

from pipelines.label.teachers.rate_limit import AdaptiveLimit, Admission


def test_refusals_of_one_round_trip_halve_once() -> None:
    limit = AdaptiveLimit(64)
    for _ in range(64):
        limit.overloaded(0)
    assert (limit.value, limit.epoch) == (32, 1)
    limit.overloaded(1)
    assert limit.value == 16


def test_it_never_falls_below_one_nor_rises_above_the_maximum() -> None:
    limit = AdaptiveLimit(3)
    for epoch in range(5):
        limit.overloaded(epoch)
    assert limit.value == limit.lowest == 1
    for _ in range(100):
        limit.succeeded(limit.epoch)
    assert limit.value == 3


def test_a_window_of_successes_raises_it_by_one() -> None:
    limit = AdaptiveLimit(64)
    limit.overloaded(0)
    for _ in range(31):
        limit.succeeded(1)
    assert limit.value == 32
    limit.succeeded(1)
    assert limit.value == 33
    for _ in range(33):
        limit.succeeded(1)
    assert limit.value == 34


def test_successes_from_before_a_halving_do_not_count() -> None:
    limit = AdaptiveLimit(4)
    limit.overloaded(0)
    for _ in range(100):
        limit.succeeded(0)
    assert limit.value == 2


@pytest.mark.parametrize("capacity", [1, 5, 20, 64])
def test_it_settles_around_what_the_endpoint_takes(capacity: int) -> None:
    """Simulated round trips: an endpoint that takes `capacity` requests at a time and refuses the others."""
    limit = AdaptiveLimit(64)
    clock, sent, values, refused, requests = 0, deque[tuple[int, int]](), list[int](), 0, 0
    while clock < 10_000:
        clock += 1
        while sent and sent[0][0] <= clock:
            _, epoch = sent.popleft()
            if epoch >= 0:
                limit.succeeded(epoch)
            else:
                limit.overloaded(-epoch - 1)
            if clock > 1000:
                refused += epoch < 0
                requests += 1
        while len(sent) < limit.value:
            accepted = sum(epoch >= 0 for _, epoch in sent) < capacity
            sent.append((clock + 10, limit.epoch if accepted else -limit.epoch - 1))
        values.append(limit.value)
    late = values[1000:]
    assert max(late) <= capacity + 1
    assert min(late) >= max(1, capacity // 2)
    assert capacity == 64 or refused > 0
    assert refused < 0.1 * requests


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_of_several_pauses_the_last_to_end_counts() -> None:
    clock = FakeClock()
    admission = Admission(AdaptiveLimit(4), clock)
    assert admission.pause_s == 0
    admission.pause(5)
    admission.pause(2)
    assert admission.pause_s == 5
    clock.now_s += 4
    assert admission.pause_s == 1
    clock.now_s += 4
    assert admission.pause_s == 0


async def hold(admission: Admission, release: asyncio.Event) -> None:
    async with admission.slot():
        await release.wait()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def no_more_than_the_limit_at_a_time() -> None:
    admission, release = Admission(AdaptiveLimit(4)), asyncio.Event()
    tasks = [asyncio.create_task(hold(admission, release)) for _ in range(10)]
    await settle()
    assert admission.in_flight == 4
    admission.limit.overloaded(0)
    release.set()
    await asyncio.gather(*tasks)
    assert admission.in_flight == 0


async def a_cancelled_waiter_blocks_nobody() -> None:
    admission, release = Admission(AdaptiveLimit(1)), asyncio.Event()
    first, second, third = (asyncio.create_task(hold(admission, release)) for _ in range(3))
    await settle()
    second.cancel()
    release.set()
    await asyncio.wait_for(asyncio.gather(first, third), 5)
    assert second.cancelled()


async def a_waiter_cancelled_after_its_waking_passes_its_place_on() -> None:
    """The first is done; the second is woken, finds a pause and is cancelled in it. The third must still come through."""
    admission = Admission(AdaptiveLimit(1))
    gates = [asyncio.Event() for _ in range(3)]
    first, second, third = (asyncio.create_task(hold(admission, gate)) for gate in gates)
    await settle()
    admission.pause(0.1)
    gates[0].set()
    await first
    await settle()
    second.cancel()
    gates[2].set()
    await asyncio.wait_for(third, 5)


@pytest.mark.parametrize(
    "body",
    [
        no_more_than_the_limit_at_a_time,
        a_cancelled_waiter_blocks_nobody,
        a_waiter_cancelled_after_its_waking_passes_its_place_on,
    ],
)
def test_admission(body) -> None:  # type: ignore[no-untyped-def]
    asyncio.run(body())
