"""Ctrl-C while requests are paid: the first one sends no further request and waits for the answers of those in flight; the second one ends.

The handler only notes the signal and starts threads, because it may run within a call of Ray.
"""

from __future__ import annotations

import _thread
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pyarrow as pa

from pipelines.runtime.terminal import say

WAIT_S = 10.0
"""For answers. Then the command ends without them."""
_QUIET_S = 1.0
"""Without requests in flight and without a row: the last answers have reached the driver."""
_CALL_S = 30.0


class Interruption:
    """Of one run of the driver's loop."""

    def __init__(self, health: Any) -> None:
        """`health`: handle of `health_actor`."""
        self._health, self._requested = health, False
        self._last_row = 0.0
        self._timer = threading.Timer(WAIT_S, _thread.interrupt_main)
        self._timer.daemon = True

    def handle(self, *_: object) -> None:
        """The signal handler. Raises KeyboardInterrupt at the second signal, which the timer sends if the user does not."""
        if self._requested:
            raise KeyboardInterrupt
        self._requested, self._last_row = True, time.monotonic()
        self._timer.start()
        threading.Thread(target=self._stop, daemon=True).start()

    def answered(self, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
        """The tables of outcomes, empty ones included, until an interruption has all answers."""
        for table in tables:
            yield table
            if self.is_over(len(table)):
                return

    def is_over(self, rows: int) -> bool:
        """True once all answers are here after a signal. `rows`: that have come since the last call."""
        if not self._requested:
            return False
        if rows:
            self._last_row = time.monotonic()
            return False
        return time.monotonic() - self._last_row > _QUIET_S and not self._in_flight()

    def finish(self) -> None:
        """Call it when no more tables are taken. Raises KeyboardInterrupt after a signal."""
        if self._requested:
            raise KeyboardInterrupt

    def _in_flight(self) -> bool:
        import ray

        found: bool = ray.get(self._health.in_flight.remote(), timeout=_CALL_S)
        return found

    def _stop(self) -> None:
        import ray

        say(
            f"label: waiting up to {WAIT_S:.0f} s for the answers of requests in flight. Press Ctrl-C again to end at once."
        )
        with suppress(ray.exceptions.RayError):  # the cluster is going down
            ray.get(self._health.interrupt.remote(), timeout=_CALL_S)

    def cancel(self) -> None:
        """End the timer."""
        self._timer.cancel()


@contextmanager
def patient_interrupt(health: Any, *, is_paid: bool) -> Iterator[Interruption]:
    """Handle Ctrl-C, and SIGTERM if it means the same, during the block.

    Args:
        is_paid: requests are paid. Otherwise, and in other threads than the main one, signals end the block at once, as always.
    """
    interruption = Interruption(health)
    if not is_paid or threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    numbers = [one for one in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(one) is signal.default_int_handler]
    for number in numbers:
        signal.signal(number, interruption.handle)
    try:
        yield interruption
    finally:
        interruption.cancel()
        for number in numbers:
            signal.signal(number, signal.default_int_handler)
