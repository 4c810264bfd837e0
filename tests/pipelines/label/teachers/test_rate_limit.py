import asyncio

import pytest

from pipelines.label.teachers.rate_limit import AdaptiveLimit, Admission
from tests.support.remote_teacher import hold, settle


@pytest.mark.parametrize(
    ("maximum", "reports", "value"),
    [
        (64, [("overloaded", 0, 64)], 32),  # the refusals of one round trip halve once
        (64, [("overloaded", 0, 1), ("succeeded", 0, 100)], 32),  # sent before the halving
        (64, [("overloaded", 0, 1), ("overloaded", 1, 1)], 16),
        (64, [("overloaded", 0, 1), ("succeeded", 1, 31)], 32),
        (64, [("overloaded", 0, 1), ("succeeded", 1, 32)], 33),  # a window of successes
        (64, [("overloaded", 0, 1), ("succeeded", 1, 32 + 33)], 34),
        (3, [("overloaded", epoch, 1) for epoch in range(5)], 1),
        (3, [("overloaded", 0, 1), ("succeeded", 1, 15)], 1),  # never fewer than 16
        (3, [("overloaded", 0, 1), ("succeeded", 1, 100)], 3),
    ],
)
def test_refusals_halve_and_successes_raise_it(maximum: int, reports: list[tuple[str, int, int]], value: int) -> None:
    limit = AdaptiveLimit(maximum)
    for report, epoch, times in reports:
        for _ in range(times):
            getattr(limit, report)(epoch)
    assert limit.value == value


def test_of_several_pauses_the_last_to_end_counts() -> None:
    clock = [100.0]
    admission = Admission(AdaptiveLimit(4), lambda: clock[0])
    assert admission.pause_s == 0
    admission.pause(5)
    admission.pause(2)
    for clock[0], left in ((100.0, 5), (104.0, 1), (108.0, 0)):
        assert admission.pause_s == left


def test_no_more_requests_than_the_limit_are_admitted() -> None:
    async def body() -> None:
        admission, release = Admission(AdaptiveLimit(4)), asyncio.Event()
        tasks = [asyncio.create_task(hold(admission, release)) for _ in range(10)]
        await settle()
        assert admission.in_flight == 4
        admission.limit.overloaded(0)
        release.set()
        await asyncio.gather(*tasks)
        assert admission.in_flight == 0

    asyncio.run(body())


@pytest.mark.parametrize("paused", [False, True], ids=["waiting for a place", "woken, then waiting for a pause"])
def test_a_cancelled_waiter_passes_its_place_on(paused: bool) -> None:
    async def body() -> None:
        admission = Admission(AdaptiveLimit(1))
        gates = [asyncio.Event() for _ in range(3)]
        first, second, third = (asyncio.create_task(hold(admission, gate)) for gate in gates)
        await settle()
        if paused:
            admission.pause(0.1)
            gates[0].set()
            await first
            await settle()
        second.cancel()
        gates[0].set()
        gates[2].set()
        await asyncio.wait_for(asyncio.gather(first, third), 5)
        assert second.cancelled()
        assert admission.in_flight == 0

    asyncio.run(body())
