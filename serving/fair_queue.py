"""Fair turns: which request sends its next inputs to a student's replicas.

The ingress admits as many inputs as the replicas compute. The others wait here, because queues of replicas know no clients.

    interactive  up to twice what the replicas compute at once: what runs, and what follows
    bulk         what they compute at once, of vLLM so many that they take about 1.5 s; beside interactive requests only
                 `target_ongoing_requests` of each replica
    one key      three quarters of the room

Interactive requests get four turns for one of bulk. Within a priority, keys take turns, and the requests of a key take turns. A turn costs
the characters that it sends, so that long inputs wait longer than short ones.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

SMALL_REQUEST = 8
"""A request with more inputs is bulk, whether it says so or not."""
_TURNS = {False: 4.0, True: 1.0}
"""Weight of interactive (False) and bulk (True)."""
_BESIDE_S = 2.0
"""Bulk keeps its distance for this time after the last interactive request."""
_KEY_SHARE = 0.75
_INPUT_COST = 100.0
"""Characters that an input costs in addition to its own."""


_BULK_S = 1.5
"""What an interactive request may find before it: replicas end what they have begun."""
_FEWEST_TIMES = 2.0
"""If the fewest inputs take longer than half of that, others may take so many times as long: long texts, not many, cost the time."""
_FIRST_TARGETS = 4
_FULL_SHARE = 0.7
_NEW_SHARE = 0.2


class QueueFullError(Exception):
    """The request's key already holds its share of the queue."""


class BulkRoom:
    """Bulk inputs that may be under way while no others are: adapted to the time that they take."""

    def __init__(self, target: int) -> None:
        self._inputs = float(_FIRST_TARGETS * target)
        self._fewest_took_s = 0.0
        """Time of the inputs at the least room."""

    def of(self, computed: int, target: int) -> int:
        """The room. Arguments as of FairQueue.resize."""
        return max(min(int(self._inputs), computed), target)

    def note(self, took_s: float, computed: int, target: int, *, full: bool) -> None:
        """Bulk inputs are answered. `full`: as many were under way as may be; otherwise their time says nothing of more."""
        if self._inputs < target + 1:
            self._fewest_took_s += _NEW_SHARE * (took_s - self._fewest_took_s)
        self._fewest_took_s = min(self._fewest_took_s, took_s)
        wanted = self._inputs * max(_BULK_S, _FEWEST_TIMES * self._fewest_took_s) / max(took_s, 0.001)
        wanted = min(max(wanted, self._inputs / 2), self._inputs * 2)
        if full or wanted < self._inputs:
            self._inputs += _NEW_SHARE * (min(max(wanted, target), max(computed, target)) - self._inputs)


class Turns:
    """The inputs of one request, as FairQueue sends them."""

    def __init__(self, queue: FairQueue, key: str, costs: Sequence[float], *, bulk: bool) -> None:
        self.key, self.bulk = key, bulk
        self._queue, self._costs, self._next = queue, costs, 0
        self.granted: asyncio.Future[range] | None = None

    @property
    def waiting(self) -> int:
        """Inputs that have no place yet."""
        return len(self._costs) - self._next

    @property
    def cancelled(self) -> bool:
        """True if its request was cancelled while it stood in line, and has not left yet."""
        return self.granted is not None and self.granted.cancelled()

    async def take(self) -> range:
        """Rows that may be sent now; empty after the last one. Each row takes a place until `done`."""
        if not self.waiting:
            return range(0)
        granted: asyncio.Future[range] = asyncio.get_running_loop().create_future()
        self.granted = granted
        self._queue.line_up(self)
        try:
            return await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self.done(len(granted.result()))
            raise

    def grant(self, count: int) -> float:
        """Give places to the next rows. Returns their cost."""
        assert self.granted is not None
        rows = range(self._next, self._next + count)
        self._next += count
        self.granted.set_result(rows)
        return sum(self._costs[row] + _INPUT_COST for row in rows)

    def done(self, count: int, took_s: float | None = None) -> None:
        """Free the places of this many rows. `took_s`: until they were answered, if they were."""
        self._queue.free(self, count, took_s)


class FairQueue:
    """The queue of one student in one ingress. To be used in one event loop."""

    def __init__(
        self, *, max_waiting: int, computed: int, target: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """
        Args:
            max_waiting: inputs that wait, of each priority. A request is accepted whole if it finds any room.
            computed, target: see `resize`.
        """
        self._max_waiting, self._clock = max_waiting, clock
        self._lines: dict[bool, dict[str, deque[Turns]]] = {False: {}, True: {}}
        """Requests that wait for their turn, by priority (True: bulk) and key."""
        self._waiting: dict[bool, Counter[str]] = {False: Counter(), True: Counter()}
        """Inputs without a place."""
        self._under_way: dict[bool, int] = {False: 0, True: 0}
        self._by_key: Counter[str] = Counter()
        """Inputs under way."""
        self._used: dict[tuple[bool, str], float] = {}
        """Cost of the turns that a key with waiting requests has had."""
        self._turn: dict[bool, float] = {False: 0.0, True: 0.0}
        """`_used` of the last key that had a turn. A new key starts there."""
        self._turns: dict[bool, float] = {False: 0.0, True: 0.0}
        """Weighted cost of each priority's turns."""
        self._interactive_at = -_BESIDE_S
        self._bulk_alone = BulkRoom(target)
        self.resize(computed, target)

    def resize(self, computed: int, target: int, *, continuous: bool = True) -> None:
        """Set the room.

        Args:
            computed: inputs that all replicas together compute at once.
            target: inputs at which they answer as fast as the settings want.
            continuous: see Engine. Otherwise fewer inputs would make batches smaller, not faster.
        """
        self._computed, self._target = max(computed, 1), max(min(target, computed), 1)
        self._continuous = continuous

    @contextmanager
    def enter(self, key: str, costs: Sequence[float], *, bulk: bool) -> Iterator[Turns]:
        """A request's inputs, each with its cost in characters. Those that still wait leave with the context.

        Raises:
            QueueFullError: the queue is full, and the key holds its share of it.
        """
        waiting = self._waiting[bulk]
        keys = len(waiting) + (key not in waiting)
        if waiting.total() >= self._max_waiting and waiting[key] >= self._max_waiting / keys:
            raise QueueFullError
        if not waiting:  # the priority was idle, and has saved no turns
            self._turns[bulk] = max(self._turns.values())
        waiting[key] += len(costs)
        if not bulk:
            self._interactive_at = self._clock()
        turns = Turns(self, key, costs, bulk=bulk)
        try:
            yield turns
        finally:
            self._leave(turns)

    def line_up(self, turns: Turns) -> None:
        """A request waits for its next turn."""
        line = self._lines[turns.bulk]
        if turns.key not in line:
            line[turns.key] = deque()
            used = self._used.get((turns.bulk, turns.key), 0.0)
            self._used[turns.bulk, turns.key] = max(used, self._turn[turns.bulk])
        line[turns.key].append(turns)
        self._give_turns()

    def free(self, turns: Turns, count: int, took_s: float | None = None) -> None:
        """Places of a request are free. `took_s`: see Turns.done."""
        if turns.bulk and took_s is not None and not self._beside:
            full = self._under_way[True] >= _FULL_SHARE * self._bulk_room()
            self._bulk_alone.note(took_s, self._computed, self._target, full=full)
        self._under_way[turns.bulk] -= count
        self._by_key[turns.key] -= count
        if not self._by_key[turns.key]:
            del self._by_key[turns.key]
        self._give_turns()

    def _leave(self, turns: Turns) -> None:
        self._waiting[turns.bulk][turns.key] -= turns.waiting
        line = self._lines[turns.bulk].get(turns.key)
        if line is not None and turns in line:
            line.remove(turns)
            self._close(turns.bulk, turns.key)
        if not self._waiting[turns.bulk][turns.key]:
            del self._waiting[turns.bulk][turns.key]
            self._used.pop((turns.bulk, turns.key), None)

    def _close(self, bulk: bool, key: str) -> None:
        if not self._lines[bulk][key]:
            del self._lines[bulk][key]

    def _give_turns(self) -> None:
        while True:
            candidates = [bulk for bulk in (False, True) if self._free(bulk) > 0 and self._next_key(bulk) is not None]
            if not candidates:
                return
            bulk = min(candidates, key=self._turns.__getitem__)
            key = self._next_key(bulk)
            assert key is not None
            self._give_turn(bulk, key)

    def _give_turn(self, bulk: bool, key: str) -> None:
        turns = self._lines[bulk][key].popleft()
        self._close(bulk, key)
        if turns.cancelled:
            return
        count = min(self._slice(bulk), turns.waiting, self._free(bulk), self._key_room(key))
        self._waiting[bulk][key] -= count
        self._under_way[bulk] += count
        self._by_key[key] += count
        cost = turns.grant(count)
        self._turn[bulk] = self._used.get((bulk, key), self._turn[bulk])
        self._used[bulk, key] = self._turn[bulk] + cost
        self._turns[bulk] += cost / _TURNS[bulk]

    def _next_key(self, bulk: bool) -> str | None:
        keys = [key for key in self._lines[bulk] if self._key_room(key) > 0]
        return min(keys, key=lambda key: self._used[bulk, key], default=None)

    def _free(self, bulk: bool) -> int:
        free = 2 * self._computed - sum(self._under_way.values())
        return min(free, self._bulk_room() - self._under_way[True]) if bulk else free

    def _key_room(self, key: str) -> int:
        return max(int(_KEY_SHARE * 2 * self._computed), 1) - self._by_key[key]

    @property
    def _beside(self) -> bool:
        """True if bulk has interactive requests beside it, or had a moment ago."""
        interactive = self._under_way[False] or self._waiting[False]
        return bool(interactive) or self._clock() - self._interactive_at < _BESIDE_S

    def _bulk_room(self) -> int:
        if self._beside:
            return self._target
        return self._bulk_alone.of(self._computed, self._target) if self._continuous else self._computed

    def _slice(self, bulk: bool) -> int:
        """Inputs of one call: so few that full replicas have twice the calls at which Serve adds a replica."""
        room = self._bulk_room() if bulk else self._computed
        return max(room // (2 * self._target), 1)
