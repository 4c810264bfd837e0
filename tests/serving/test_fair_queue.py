"""The ingress' queue without Ray: turns, room and limits."""

import asyncio
from collections import Counter

import pytest

from serving.fair_queue import BulkRoom, FairQueue, QueueFullError, Turns

pytestmark = pytest.mark.anyio


class Endpoint:
    """A queue whose requests record the inputs that they may send. The test ends them."""

    def __init__(self, computed: int = 8, target: int = 4, max_waiting: int = 100) -> None:
        self.now = 100.0
        self.queue = FairQueue(max_waiting=max_waiting, computed=computed, target=target, clock=lambda: self.now)
        self.under_way: list[tuple[str, Turns, int]] = []
        self.order: list[str] = []
        """Name of the request of each turn."""

    def send(
        self, name: str, inputs: int, *, key: str = "", bulk: bool = False, cost: float = 0.0
    ) -> asyncio.Task[int]:
        async def request() -> int:
            taken = 0
            with self.queue.enter(key or name, [cost] * inputs, bulk=bulk) as turns:
                while rows := await turns.take():
                    assert rows.start == taken
                    taken += len(rows)
                    self.order += [name] * len(rows)
                    self.under_way.append((name, turns, len(rows)))
            return taken

        return asyncio.create_task(request())

    async def settle(self) -> Counter[str]:
        """Inputs under way by request, once nothing moves."""
        for _ in range(50):
            await asyncio.sleep(0)
        counts: Counter[str] = Counter()
        for name, _, rows in self.under_way:
            counts[name] += rows
        return counts

    async def end(self, turns: int = 1) -> Counter[str]:
        """End the oldest calls."""
        for _ in range(turns):
            _, of, rows = self.under_way.pop(0)
            of.done(rows)
            await self.settle()
        return await self.settle()

    async def drain(self) -> None:
        while self.under_way:
            await self.end()


async def test_bulk_leaves_room_for_others() -> None:
    endpoint = Endpoint()
    bulk = endpoint.send("bulk", 40, bulk=True)
    assert await endpoint.settle() == {"bulk": 8}, "alone: what replicas compute at once"
    small = [endpoint.send(f"small {i}", 1) for i in range(3)]
    assert (await endpoint.settle()).total() == 11
    await endpoint.end(8)
    assert (await endpoint.settle())["bulk"] == 4, "beside others: the target"
    while any(not task.done() for task in small) or any(name != "bulk" for name, _, _ in endpoint.under_way):
        await endpoint.end()
    endpoint.now += 10.0
    assert (await endpoint.end())["bulk"] == 8
    await endpoint.drain()
    assert await bulk == 40
    assert [await task for task in small] == [1, 1, 1]


async def test_bulk_alone_takes_about_a_second_and_a_half() -> None:
    """An interactive request finds it before it. If few take longer by themselves, it is twice their time."""
    for seconds_each, fixed_s, inputs in (0.1, 0, 15), (0.02, 0, 75), (0.1, 1, 5), (0, 4, 200), (0.02, 2, 45):
        room = BulkRoom(4)
        for _ in range(200):
            under_way = room.of(200, 4)
            room.note(fixed_s + seconds_each * under_way, 200, 4, full=True)
        assert room.of(200, 4) == pytest.approx(inputs, rel=0.35), (seconds_each, fixed_s)
    few = BulkRoom(4)
    for _ in range(50):
        few.note(0.01, 200, 4, full=False)
    assert few.of(200, 4) == 16, "a few quick ones promise nothing for many"
    for took_s, expected in ((60.0, 6), (0.5, 15)):  # a replica that starts
        for _ in range(100):
            few.note(took_s * few.of(200, 4) / 5, 200, 4, full=True)
        assert few.of(200, 4) == pytest.approx(expected, abs=4)


async def test_keys_and_requests_of_a_key_take_turns() -> None:
    endpoint = Endpoint(computed=1)
    sent = [endpoint.send("a", 30), endpoint.send("b", 30)]
    await endpoint.settle()
    await endpoint.end(10)
    assert abs(Counter(endpoint.order)["a"] - Counter(endpoint.order)["b"]) <= 1
    endpoint.order.clear()
    sent += [endpoint.send("late", 30), endpoint.send("long", 30, cost=300.0)]
    await endpoint.end(26)
    counts = Counter(endpoint.order)
    assert max(counts[key] for key in ("a", "b", "late")) - min(counts[key] for key in ("a", "b", "late")) <= 2
    assert counts["long"] == pytest.approx(counts["a"] / 4, abs=1.5)
    await endpoint.drain()
    assert [await task for task in sent] == [30] * 4
    endpoint = Endpoint(computed=1)
    large, small = endpoint.send("large", 50, key="a"), endpoint.send("small", 1, key="a")
    await endpoint.settle()
    await endpoint.end(3)
    assert small.done()
    await endpoint.drain()
    assert await large == 50


async def test_neither_a_priority_nor_a_key_takes_all_places() -> None:
    endpoint = Endpoint(computed=1, target=1)
    sent = [endpoint.send("bulk", 40, bulk=True), *(endpoint.send(f"small {i}", 4) for i in range(40))]
    await endpoint.settle()
    await endpoint.end(50)
    bulk = Counter(endpoint.order)["bulk"]
    assert 8 <= bulk <= 14, "one turn of five"
    await endpoint.drain()
    assert sum([await task for task in sent]) == 200
    endpoint = Endpoint(computed=8)
    first = [endpoint.send(f"a{i}", 1, key="a") for i in range(30)]
    assert (await endpoint.settle()).total() == 12
    endpoint.send("b", 2)
    assert (await endpoint.settle())["b"] == 2
    await endpoint.drain()
    assert [await task for task in first] == [1] * 30


async def test_a_full_queue_refuses_the_key_that_filled_it() -> None:
    endpoint = Endpoint(computed=1, max_waiting=10)
    accepted = [endpoint.send("a", 8, bulk=True), endpoint.send("a", 40, bulk=True)]
    await endpoint.settle()
    with pytest.raises(QueueFullError):
        await endpoint.send("a", 1, bulk=True)
    accepted += [endpoint.send("b", 1, bulk=True), endpoint.send("a", 1)]
    await endpoint.drain()
    assert [await task for task in accepted] == [8, 40, 1, 1]


async def test_a_cancelled_request_leaves_the_queue() -> None:
    endpoint = Endpoint(computed=1, max_waiting=3)
    running, waiting = endpoint.send("a", 2), endpoint.send("b", 5)
    await endpoint.settle()
    waiting.cancel()
    await endpoint.settle()
    other = endpoint.send("c", 1)
    await endpoint.drain()
    assert (await running, await other) == (2, 1)
    assert waiting.cancelled()
    assert endpoint.order.count("b") == 1, "what it had been given before"
    endpoint = Endpoint(computed=1, target=1)
    first, second = endpoint.send("a", 1), endpoint.send("b", 1)
    await endpoint.settle()
    third = endpoint.send("c", 1)
    await endpoint.settle()
    _, turns, rows = endpoint.under_way.pop(0)
    turns.done(rows)
    third.cancel()
    await endpoint.settle()
    await endpoint.drain()
    assert (await first, await second) == (1, 1)
    fourth = endpoint.send("d", 2)
    await endpoint.settle()
    await endpoint.drain()
    assert await fourth == 2


async def test_more_replicas_give_more_room() -> None:
    endpoint = Endpoint(computed=4)
    request = endpoint.send("bulk", 40, bulk=True)
    assert (await endpoint.settle()).total() == 4
    endpoint.queue.resize(12, 8)
    assert (await endpoint.end()).total() == 12
    endpoint.queue.resize(30, 8, continuous=False)
    assert (await endpoint.end()).total() == 30, "a batch is not faster if it is smaller"
    await endpoint.drain()
    assert await request == 40
