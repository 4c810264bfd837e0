"""How long a student stays loaded in a replica that several share.

Without a minimum, requests that alternate between two students would start an engine each. A loaded student stays for three times as long
as its start took, so that starts take at most a quarter of a replica's time. Requests for another student wait meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

_STAY = 3.0
"""Least stay, in durations of a start."""
_POLL_S = 0.1


class Residency:
    """Lets requests in whose student is loaded, or may take another one's place. To be used in one event loop."""

    def __init__(self, places: int, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            places: students that the replica keeps loaded. The least recently used one leaves first.
        """
        self._places, self._clock = places, clock
        self._may_leave: dict[str, float] = {}
        """Loaded student -> end of its least stay; the least recently used one first."""
        self._coming: Counter[str] = Counter()
        """Students whose requests are let in -> such requests."""

    async def entered(self, student_id: str) -> AbstractContextManager[None]:
        """Wait until the student is loaded or may be. The block loads it."""
        while not self._may_come(student_id):
            await asyncio.sleep(_POLL_S)
        return self._entry(student_id)  # no other request is let in between

    def note(self, student_id: str, start_s: float) -> None:
        """The student is loaded, after a start of so many seconds, and used now."""
        leaves = self._may_leave.pop(student_id, self._clock() + _STAY * start_s)
        self._may_leave[student_id] = leaves
        while len(self._may_leave) > self._places:
            del self._may_leave[next(iter(self._may_leave))]

    @contextmanager
    def _entry(self, student_id: str) -> Iterator[None]:
        try:
            yield
        finally:
            self._coming[student_id] -= 1
            self._coming += Counter()  # without those at 0

    def _may_come(self, student_id: str) -> bool:
        present = {*self._may_leave, *self._coming}
        if student_id not in present and len(present) >= self._places:
            first = next((one for one in self._may_leave if one not in self._coming), None)
            if first is None or self._may_leave[first] > self._clock():
                return False
            del self._may_leave[first]
        self._coming[student_id] += 1
        return True
