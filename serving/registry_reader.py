"""Reads student folders into the ingress' registry. A student that cannot be read or run is unavailable and tried again; others answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from pydantic import BaseModel

from pipelines.config.serving import ServingConfig
from pipelines.errors import UserError, last_line
from pipelines.tasks.base import Task
from pipelines.tasks.registry import load_task
from serving.engines.select import engine_name
from serving.model_card import StudentCard, read_card
from serving.registry import READ_AGAIN_S, Registry

_READ_TIMEOUT_S = 10.0
"""Until a student whose folder does not respond is unavailable. Its read continues."""
_MAX_READS = 256
"""At the same time."""
_logger = logging.getLogger(__name__)
_Student = tuple[StudentCard, Task]
_Outcome = _Student | BaseException
_Key = tuple[str, str, str | None]
"""Student id, folder, expected fingerprint."""


class EndpointStudents(BaseModel):
    """The students of an endpoint: the `user_config` of its ingress."""

    students: dict[str, str]
    """Student id -> folder or URI."""
    fingerprints: dict[str, str] = {}
    """Student id -> expected fingerprint. A change makes the ingress read the folder again."""
    split: dict[str, dict[str, float]] = {}
    """Name -> version -> percent."""


class RegistryReader:
    """Keeps `registry` up to date. To be used in one event loop."""

    def __init__(self, serving: ServingConfig) -> None:
        self.registry = Registry()
        self._serving = serving
        # Of its own: in the default pool, folders that do not respond would take the threads from other work.
        self._pool = ThreadPoolExecutor(_MAX_READS, thread_name_prefix="read-student")
        self._starting: frozenset[str] = frozenset()
        self._retry: asyncio.Task[None] | None = None
        self._reads: dict[_Key, asyncio.Future[_Outcome]] = {}
        """Reads that have not finished. A folder that does not respond keeps one thread, however often it is tried."""

    def set_starting(self, students: frozenset[str]) -> None:
        """Set the students whose application does not run yet."""
        self._starting = students
        self.registry = replace(self.registry, starting=students)

    async def load(self, endpoint: EndpointStudents, starting: frozenset[str] = frozenset()) -> None:
        """Replace the registry. Raises UserError for an invalid split; the old registry then stays.

        Args:
            starting: see `set_starting`.
        """
        expected = endpoint.fingerprints
        unchanged = [
            card
            for card in self.registry.cards
            if endpoint.students.get(card.id) == card.folder and card.is_expected(expected.get(card.id))
        ]
        self._reads = {key: read for key, read in self._reads.items() if not read.done()}  # finished ones are outdated
        registry = replace(await self._read(endpoint, unchanged), starting=starting)
        self._starting = starting
        if self._retry is not None:  # only now: an invalid config must not stop the retries of the valid one
            self._retry.cancel()
        self.registry = registry
        self._retry = asyncio.create_task(self._read_again(endpoint)) if registry.unavailable else None

    async def _read_again(self, endpoint: EndpointStudents) -> None:
        while self.registry.unavailable:
            try:
                if reads := list(self._reads.values()):  # do not wait for the interval if one of them finishes
                    await asyncio.wait(reads, timeout=READ_AGAIN_S, return_when=asyncio.FIRST_COMPLETED)
                else:
                    await asyncio.sleep(READ_AGAIN_S)
                found = await self._read(endpoint, self.registry.cards)
                registry = replace(found, starting=self._starting)
            except Exception:
                # Nothing awaits this task. If it ended here, the students would stay unavailable for ever.
                _logger.exception("the folders of unavailable students could not be read again")
                await asyncio.sleep(READ_AGAIN_S)
                continue
            if registry.unavailable != self.registry.unavailable:
                self.registry = registry

    async def _read(self, endpoint: EndpointStudents, known: Sequence[StudentCard]) -> Registry:
        """The registry of a config. Known students are kept, the folders of the others are read."""
        before = self.registry
        students: dict[str, _Student | str] = {card.id: (card, before.tasks[card.id]) for card in known}
        keys: dict[str, _Key] = {
            student_id: (student_id, folder, endpoint.fingerprints.get(student_id))
            for student_id, folder in endpoint.students.items()
            if student_id not in students
        }
        # A finished read of another config is outdated when a later config asks for it.
        self._reads = {key: read for key, read in self._reads.items() if key in keys.values() or not read.done()}
        for student_id, folder, fingerprint in keys.values():
            # In parallel: a store that does not respond takes a minute per student.
            if (key := (student_id, folder, fingerprint)) not in self._reads:
                loop = asyncio.get_running_loop()
                self._reads[key] = loop.run_in_executor(self._pool, _read_student, student_id, folder, self._serving)
        reads = {student_id: self._reads[key] for student_id, key in keys.items()}
        if reads:
            await asyncio.wait(reads.values(), timeout=_READ_TIMEOUT_S)
        for student_id, read in reads.items():
            if read.done():
                self._reads.pop(keys[student_id], None)
            students[student_id] = self._evaluate(keys[student_id], read, before.unavailable.get(student_id))
        ordered = {student_id: students[student_id] for student_id in endpoint.students}
        available = {student_id: found for student_id, found in ordered.items() if not isinstance(found, str)}
        return Registry(
            [card for card, _ in available.values()],
            endpoint.split,
            {student_id: reason for student_id, reason in ordered.items() if isinstance(reason, str)},
            {student_id: task for student_id, (_, task) in available.items()},
        )

    def _evaluate(self, key: _Key, read: asyncio.Future[_Outcome], reason_before: str | None) -> _Student | str:
        """The student, or the reason why it is unavailable. A reason is logged when it changes."""
        student_id, folder, expected = key
        outcome = read.result() if read.done() else TimeoutError()
        if isinstance(outcome, BaseException):
            reason = _reason(student_id, outcome)
            if reason != reason_before:
                traceback = None if isinstance(outcome, (UserError, OSError)) else outcome
                _logger.error("student %s is unavailable: %s", student_id, reason, exc_info=traceback)
            return reason
        if reason_before is not None:
            _logger.warning("student %s is available again", student_id)
        if not outcome[0].is_expected(expected):
            # Its replicas still answer, so it stays available.
            _logger.warning("%s holds another student than the one that was deployed as %s", folder, student_id)
        return outcome


def _read_student(student_id: str, folder: str, serving: ServingConfig) -> _Outcome:
    """A student's card and task, or the error. An error concerns this student only: its code runs here, and no engine may run it."""
    try:
        card = read_card(student_id, folder, task_code=serving.task_code)
        engine_name(card.family, serving)
        return card, load_task(card.task)
    except BaseException as error:  # noqa: BLE001 also SystemExit, which would only end this thread; `_evaluate` logs it
        return error


def _reason(student_id: str, error: BaseException) -> str:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, TimeoutError):
        return f"{student_id}: its folder does not respond"
    return f"{student_id}: its folder cannot be read ({type(error).__name__}: {last_line(error)})"
