"""Inputs that kill replicas: an input under way in two deaths, the second time alone, is refused from then on.

All inputs that were under way when a replica died are suspects. Each is sent once more, one at a time, so that the next death has one
suspect. Inputs are known by their hash.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable

from ray.exceptions import ActorUnavailableError, RayActorError

_KEEP_S = 600.0
_MAX_HASHES = 10_000


class Poison:
    """The refused inputs of one ingress. A retrained student, or ten minutes, give an input another chance."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._refused: OrderedDict[bytes, float] = OrderedDict()
        """Hash -> end of its time, oldest first."""
        self._alone: dict[str, asyncio.Lock] = {}

    def alone(self, student_id: str) -> asyncio.Lock:
        """To be held while a suspect is computed."""
        return self._alone.setdefault(student_id, asyncio.Lock())

    def refuses(self, content: str, text: str) -> bool:
        """True if the input is refused. `content`: of the student."""
        if not self._refused:
            return False
        return self._refused.get(_hash(content, text), 0.0) > self._clock()

    def refuse(self, content: str, text: str) -> None:
        """Refuse an input from now on."""
        self._refused[_hash(content, text)] = self._clock() + _KEEP_S
        while len(self._refused) > _MAX_HASHES:
            self._refused.popitem(last=False)


def is_another_death(error: RayActorError, before: RayActorError) -> bool:
    """True if another replica died, by itself. A call to a replica that is already dead, or on a lost node, proves nothing."""
    if isinstance(error, ActorUnavailableError) or error.preempted:
        return False
    return error.actor_id is None or error.actor_id != before.actor_id


def _hash(content: str, text: str) -> bytes:
    return hashlib.sha256(f"{content}\0{text}".encode()).digest()
