"""Watches which students run, and whether any can answer.

An ingress learns of a new version before its replicas run, because a RayService deploys both at once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from pipelines.config.serving import ServingConfig
from pipelines.runtime.compat.ray import ApplicationState, application_states
from serving.replica_client import SHARED, application_of

_FIRST_POLL_S, _LAST_POLL_S = 0.2, 1.0
_TIMEOUT_S = 5.0
_KEEP_S = 2.0
"""Probes of all load balancers must not add up in Serve's controller."""
_logger = logging.getLogger(__name__)


class StartWatch:
    """Polls Serve until every student of an endpoint has run once. To be used in one event loop."""

    def __init__(
        self, serving: ServingConfig, note: Callable[[frozenset[str]], None], clock: Callable[[], float] = time.monotonic
    ) -> None:  # fmt: skip
        """
        Args:
            note: receives the students that do not run yet, after each change.
        """
        self._shared, self._note = serving.students_per_replica is not None, note
        self._seen: frozenset[str] = frozenset()
        """Students that have run, or are assumed to."""
        self._poll: asyncio.Task[None] | None = None
        self._clock, self._asked_at = clock, -_KEEP_S
        self._states: dict[str, ApplicationState] | None = {}
        """By application. While Serve's controller is silent, its last word counts. None: the ingress runs without Serve."""

    async def any_can_answer(self, students: Collection[str]) -> bool:
        """True if one of them has a replica that answers, or can get one."""
        if self._clock() - self._asked_at >= _KEEP_S:
            await self._ask()
        states = self._states or {}
        return not all(name in states and states[name].fails for name in map(self._application, students))

    async def starting(self, students: Collection[str]) -> frozenset[str]:
        """The students of a new configuration that do not run yet."""
        new = frozenset(students) - self._seen
        return await self._still_starting(new) if new else new

    def follow(self, students: Collection[str], starting: frozenset[str]) -> None:
        """Note when they run, instead of the students of the previous call."""
        if self._poll is not None:
            self._poll.cancel()
        self._seen = frozenset(students) - starting
        self._poll = asyncio.create_task(self._until_all_run(starting)) if starting else None

    async def _until_all_run(self, starting: frozenset[str]) -> None:
        pause_s = _FIRST_POLL_S
        while starting:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LAST_POLL_S)
            left = await self._still_starting(starting)
            if left != starting:
                self._seen |= starting - left
                starting = left
                self._note(left)

    async def _still_starting(self, students: frozenset[str]) -> frozenset[str]:
        """Those whose application does not run."""
        await self._ask()
        if (states := self._states) is None:
            return frozenset()
        running = {name for name, state in states.items() if state.running}
        return frozenset(student for student in students if self._application(student) not in running)

    async def _ask(self) -> None:
        self._asked_at = self._clock()
        try:
            self._states = await asyncio.wait_for(application_states(), _TIMEOUT_S)
        except (TimeoutError, RayError, RayServeException) as error:
            _logger.warning("Serve's controller does not answer which students run: %r", error)

    def _application(self, student: str) -> str:
        return SHARED if self._shared else application_of(student)
