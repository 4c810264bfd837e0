"""Whether students can answer: an application has a replica that runs, or can get one."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from pipelines.runtime.compat.ray import failing_applications

_KEEP_S = 2.0
"""Probes of all load balancers must not add up in Serve's controller."""
_TIMEOUT_S = 5.0
_logger = logging.getLogger(__name__)


class Ability:
    """Asks Serve which applications fail. To be used in one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failing: frozenset[str] = frozenset()
        self._asked_at = -_KEEP_S

    async def of_any(self, applications: Collection[str]) -> bool:
        """True if one of them can answer. While Serve's controller is silent, its last word counts."""
        if self._clock() - self._asked_at >= _KEEP_S:
            self._asked_at = self._clock()
            try:
                self._failing = await asyncio.wait_for(failing_applications(), _TIMEOUT_S)
            except (TimeoutError, RayError, RayServeException) as error:
                _logger.warning("Serve's controller does not answer which students fail: %r", error)
        return bool(set(applications) - self._failing)
