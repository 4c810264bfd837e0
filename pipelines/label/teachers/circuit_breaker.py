"""Pauses a teacher whose endpoint fails most requests, so that an outage costs time and no rows.

    closed    requests pass; the last WINDOW results are kept
    open      most of them failed: nothing is sent except one probe at a time, at growing intervals
    closed    again, once a probe or an earlier request is answered

Failures during an outage are not counted against a row's attempts. A single row that always fails opens nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from pipelines.label.teachers.base import TeacherUnusableError
from pipelines.runtime.terminal import say

WINDOW = 40
LEAST_RESULTS = 20
MOST = 0.5
FIRST_PROBE_S = 1.0
MAX_PROBE_S = 30.0
_POLL_S = 1.0


class CircuitBreaker:
    """For one event loop."""

    def __init__(self, url: str, max_outage_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`max_outage_s`: an outage that lasts longer fails the stage. `clock`: monotonic seconds."""
        self._url, self._max_outage_s, self._clock = url, max_outage_s, clock
        self._results: deque[bool] = deque(maxlen=WINDOW)
        self._opened: float | None = None
        self._next_probe = 0.0
        self._interval_s = FIRST_PROBE_S
        self._probing = False

    @property
    def is_open(self) -> bool:
        """True during an outage."""
        return self._opened is not None

    async def admit(self) -> bool:
        """Wait while the breaker is open. Returns True if this request is the probe; its result must be recorded.

        Raises:
            TeacherUnusableError: the outage lasts longer than is allowed.
        """
        while self._opened is not None:
            now = self._clock()
            if now - self._opened > self._max_outage_s:
                raise TeacherUnusableError(
                    f"{self._url} has not answered for {now - self._opened:,.0f} s, teacher.remote.max_outage_s is {self._max_outage_s:g}"
                )
            if now >= self._next_probe and not self._probing:
                self._probing = True
                return True
            await asyncio.sleep(min(max(self._next_probe - now, 0.01), _POLL_S))
        return False

    def record(self, answered: bool, *, probe: bool = False) -> None:
        """Count one result. `answered`: the endpoint works, even if it refused the request."""
        if probe:
            self._probing = False
        if self._opened is None:
            self._results.append(answered)
            failed = len(self._results) - sum(self._results)
            if not answered and len(self._results) >= LEAST_RESULTS and failed > MOST * len(self._results):
                self._open(failed)
        elif answered:
            self._close()
        elif probe:
            self._interval_s = min(2 * self._interval_s, MAX_PROBE_S)
            self._next_probe = self._clock() + self._interval_s

    def _open(self, failed: int) -> None:
        self._opened, self._interval_s = self._clock(), FIRST_PROBE_S
        self._next_probe = self._opened + self._interval_s
        _say(f"{self._url} failed {failed} of the last {len(self._results)} requests; pausing until it answers")

    def _close(self) -> None:
        assert self._opened is not None
        _say(f"{self._url} answers again after {self._clock() - self._opened:,.0f} s")
        self._opened = None
        self._results.clear()


def _say(text: str) -> None:
    say(f"teacher: {text}")
