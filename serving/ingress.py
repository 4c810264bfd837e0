"""The ingress: speaks HTTP and hands questions to the students' replicas. Loads no model, always runs.

A request's inputs travel to the student one by one; its engine puts those that arrive together, of whatever requests, into one batch.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException

from pipelines.config.serving import ServingConfig
from pipelines.errors import UserError, last_line
from pipelines.tasks.base import Task
from pipelines.tasks.registry import load_task
from serving.api.api_keys import KeyRing
from serving.api.errors import ApiError
from serving.api.middleware import ACCESS_LOG
from serving.api.routes import Api, create_app
from serving.messages import Piece, Question, Reply, TextRequest, TooLong, UnavailableError
from serving.metrics import IngressMetrics
from serving.model_card import StudentCard, read_card
from serving.registry import READ_AGAIN_S, Registry

STUDENT = "student"
"""The deployment of each student's application."""
SHARED = "raystill-students"
"""The application that all students share, with `students_per_replica`."""
_RETRY_AFTER_S = 1
_ANSWER_S = 10.0
"""For the folders of students to be read. One that takes longer is away until it has been."""
_AWAY = (BackPressureError, DeploymentUnavailableError, RayActorError, UnavailableError)
_WAITS_S = (0.1, 0.5, 1.0, None)
"""Before a question is asked again whose replica has died; None: it has been asked often enough."""
_FULL_S = 0.1
"""Before a request of which a part is answered tries a full queue again."""
_logger = logging.getLogger(__name__)
_Read = tuple[StudentCard, Task] | BaseException
"""What a folder says of its student, or why it says nothing."""
_Made = TypeVar("_Made")


def application_of(student_id: str) -> str:
    """The Serve application of a student."""
    return f"raystill-student-{student_id}"


class Ingress:
    """Requests in, questions out. Which students there are comes by `reconfigure`, while it runs."""

    def __init__(self, serving: ServingConfig) -> None:
        self._serving = serving
        self._roster = Registry()
        self._handles: dict[str, Any] = {}
        self._engines: dict[str, str] = {}
        self._reader: asyncio.Task[None] | None = None
        """Tries again to read the folders of students that are away."""
        self._reads: dict[tuple[str, str, str | None], asyncio.Future[_Read]] = {}
        """Those under way, by student, folder and fingerprint: where a folder does not answer, no second thread waits for it."""
        self._metrics = IngressMetrics()
        self._keys = KeyRing(serving.keys, share=serving.ingress_replicas)
        if serving.access_log:
            _log_to_stdout(ACCESS_LOG)

    async def reconfigure(self, endpoint: dict[str, Any]) -> None:
        """Take other students, or other shares of their versions. One whose folder cannot be read is away and tried again; others answer.

        Args:
            endpoint: {"students": {id: folder}, "fingerprints": {id: fingerprint}, "split": {name: {version: percent}}}.
        """
        folders, meant = endpoint["students"], endpoint.get("fingerprints", {})
        same = [
            card
            for card in self._roster.cards
            if folders.get(card.id) == card.folder and meant.get(card.id, card.fingerprint) == card.fingerprint
        ]
        self._reads = {key: read for key, read in self._reads.items() if not read.done()}  # others are of before
        roster = await self._read(endpoint, same)
        if self._reader is not None:  # not before: what cannot be taken leaves all as it was
            self._reader.cancel()
        self._roster, self._handles, self._engines = roster, {}, {}
        self._reader = asyncio.create_task(self._read_again(endpoint)) if self._roster.away else None

    def away(self) -> dict[str, str]:
        """Students whose folders this replica cannot read, and why; for whoever has deployed them."""
        return dict(self._roster.away)

    async def _read_again(self, endpoint: dict[str, Any]) -> None:
        while self._roster.away:
            try:
                if reads := list(self._reads.values()):  # one that ends is looked at then
                    await asyncio.wait(reads, timeout=READ_AGAIN_S, return_when=asyncio.FIRST_COMPLETED)
                else:
                    await asyncio.sleep(READ_AGAIN_S)
                roster = await self._read(endpoint, self._roster.cards)
            except Exception:
                # Nobody waits for this task: without a next try those who are away would be so for ever.
                _logger.exception("the folders of students that are away cannot be tried again")
                await asyncio.sleep(READ_AGAIN_S)
                continue
            if roster.away != self._roster.away:
                self._roster = roster

    async def _read(self, endpoint: dict[str, Any], cards: Sequence[StudentCard]) -> Registry:
        """The students of a config: those that are known already, and what the folders of the others say."""
        folders, meant, before = endpoint["students"], endpoint.get("fingerprints", {}), self._roster
        found: dict[str, tuple[StudentCard, Task] | str] = {card.id: (card, before.tasks[card.id]) for card in cards}
        keys = {i: (i, folder, meant.get(i)) for i, folder in folders.items() if i not in found}
        # What has been read for another config is old when it is asked for.
        self._reads = {k: read for k, read in self._reads.items() if k in keys.values() or not read.done()}
        # Side by side: a store that does not answer takes a minute for each.
        for key in keys.values():
            if key not in self._reads:
                self._reads[key] = _in_thread(partial(self._card, *key[:2]))
        reads = {student_id: self._reads[key] for student_id, key in keys.items()}
        if reads:
            await asyncio.wait(reads.values(), timeout=_ANSWER_S)
        for student_id, read in reads.items():
            if read.done():
                self._reads.pop(keys[student_id], None)
            found[student_id] = self._told(keys[student_id], read, before.away.get(student_id))
        there = {i: one for i in folders if not isinstance(one := found[i], str)}
        return Registry(
            [card for card, _ in there.values()],
            endpoint.get("split", {}),
            {i: why for i in folders if isinstance(why := found[i], str)},
            {i: task for i, (_, task) in there.items()},
        )

    def _card(self, student_id: str, folder: str) -> _Read:
        """A student's card and task. Whatever goes wrong is that student's alone: others' folders are read here, and their code runs."""
        try:
            card = read_card(student_id, folder, task_code=self._serving.task_code)
            return card, load_task(card.task)
        except BaseException as error:  # noqa: BLE001 also SystemExit, which ends a thread only; `_told` has it logged
            return error

    def _told(
        self, key: tuple[str, str, str | None], read: asyncio.Future[_Read], before: str | None
    ) -> tuple[StudentCard, Task] | str:
        """What a read has found, or why the student is away, which the log has once."""
        student_id, folder, meant = key
        found = read.result() if read.done() else TimeoutError()
        if isinstance(found, BaseException):
            why = _why(student_id, found)
            if why != before:
                bug = None if isinstance(found, (UserError, OSError)) else found
                _logger.error("student %s is away: %s", student_id, why, exc_info=bug)
            return why
        if before is not None:
            _logger.warning("student %s is back", student_id)
        if meant not in (None, found[0].fingerprint):
            # No reason to be away: its replicas, and all other students, still answer.
            _logger.warning("%s holds another student than the one that was deployed as %s", folder, student_id)
        return found

    def __serve_build_asgi_app__(self) -> Any:
        """What Serve calls for the HTTP application."""
        api = Api(lambda: self._roster, self, self._serving, self._keys, self._metrics)
        return create_app(api, names_requests=False)

    def engine(self, card: StudentCard) -> str | None:
        """See `Backend`."""
        return self._engines.get(card.id)

    async def ask(self, card: StudentCard, questions: Sequence[Question]) -> Sequence[Reply | TooLong]:
        """See `Backend`."""
        student = self._handle(card)
        replies = await self._all(card, [partial(student.answer.remote, question) for question in questions])
        self._note_engine(card, replies)
        return replies

    async def write(self, card: StudentCard, orders: Sequence[TextRequest]) -> Sequence[Piece | TooLong]:
        """See `Backend`."""
        student = self._handle(card)
        pieces = await self._all(card, [partial(student.write.remote, order) for order in orders])
        self._note_engine(card, pieces)
        return pieces

    async def stream(self, card: StudentCard, order: TextRequest) -> AsyncGenerator[Piece | TooLong, None]:
        """See `Backend`. Cancelled where the client goes away. A replica that dies makes room for another until something is written."""
        student = self._handle(card).options(stream=True)
        # Each step is timed by itself: the steps of a stream are awaited by more than one task.
        until = time.monotonic() + self._serving.request_timeout_s
        begun = False
        for wait in _WAITS_S:
            response = student.stream.remote(order)
            pieces = aiter(response)
            try:
                while True:
                    piece = await asyncio.wait_for(anext(pieces), max(until - time.monotonic(), 0.0))
                    begun = True
                    self._note_engine(card, [piece])
                    yield piece
            except StopAsyncIteration:
                return
            except (*_AWAY, TimeoutError) as error:
                if begun or wait is None or not isinstance(error, RayActorError):
                    raise self._explained(card, error) from error
            finally:
                _cancel(response)
            await asyncio.sleep(wait)

    def _handle(self, card: StudentCard) -> Any:
        # Kept: making one asks Ray's control service each time.
        if card.id not in self._handles:
            together = self._serving.students_per_replica is not None
            try:
                handle = serve.get_deployment_handle(STUDENT, SHARED if together else application_of(card.id))
            except KeyError as error:  # its application is still being built, or gone already
                raise self._explained(card, error) from error
            self._handles[card.id] = handle.options(multiplexed_model_id=card.id) if together else handle
        return self._handles[card.id]

    def _note_engine(self, card: StudentCard, outcomes: Sequence[Reply | Piece | TooLong]) -> None:
        for outcome in outcomes:
            if not isinstance(outcome, TooLong) and outcome.engine is not None:
                self._engines[card.id] = outcome.engine

    async def _all(self, card: StudentCard, sends: Sequence[Callable[[], Any]]) -> list[Any]:
        together = _Together()
        try:
            async with asyncio.timeout(self._serving.request_timeout_s), asyncio.TaskGroup() as group:
                tasks = [group.create_task(together.answered(send)) for send in sends]
            return [task.result() for task in tasks]
        except TimeoutError as error:
            raise self._explained(card, error) from error
        except ExceptionGroup as failed:
            first = failed.exceptions[0]
            if isinstance(first, _AWAY):
                raise self._explained(card, first) from first
            raise first from failed

    def _explained(self, card: StudentCard, error: Exception) -> ApiError:
        if isinstance(error, TimeoutError):
            seconds = self._serving.request_timeout_s
            return ApiError(504, "timeout", f"model {card.id} did not answer within {seconds:g} s")
        if isinstance(error, BackPressureError):
            message = f"the queue of model {card.id} is full ({self._serving.max_queued_requests:,} inputs)"
            return ApiError(503, "queue_full", message, retry_after_s=_RETRY_AFTER_S)
        return ApiError(503, "model_away", f"model {card.id} is away", retry_after_s=_RETRY_AFTER_S)


def _in_thread(work: Callable[[], _Made]) -> asyncio.Future[_Made]:
    """What `work` returns, from a thread of its own: one that never ends takes no place in a pool, and keeps no process from ending."""
    made: Future[_Made] = Future()

    def run() -> None:
        if not made.set_running_or_notify_cancel():
            return
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 whoever waits gets it
            made.set_exception(error)
        else:
            made.set_result(result)

    waited = asyncio.wrap_future(made)
    threading.Thread(target=run, name="reads a student", daemon=True).start()
    return waited


def _why(student_id: str, error: BaseException) -> str:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, TimeoutError):
        return f"{student_id}: its folder does not answer"
    return f"{student_id}: its folder cannot be read ({type(error).__name__}: {last_line(error)})"


class _Together:
    """The questions of one request. Where the queue is full, those that found no room wait for those that did: of two requests that are
    larger than what is free, each has a part in the queue, and both are answered. One that has no part in it at first is refused."""

    def __init__(self) -> None:
        self._under_way, self._begun = 0, False
        self._turns = asyncio.Semaphore(0)

    async def answered(self, send: Callable[[], Any]) -> Any:
        """What a replica answers. Raises BackPressureError where the queue is full of other requests' questions."""
        while True:
            self._under_way += 1
            try:
                answer = await _answered(send)
            except BackPressureError:
                if self._under_way == 1 and not self._begun:
                    raise
            else:
                self._begun = True
                # Two try again for each that is answered: as many as there is room for in the end, and not all at a time.
                self._turns.release()
                self._turns.release()
                return answer
            finally:
                self._under_way -= 1
            if self._under_way:
                await self._turns.acquire()
            else:  # others have taken the places meanwhile, and none of its own will make room
                await asyncio.sleep(_FULL_S)


async def _answered(send: Callable[[], Any]) -> Any:
    """What a replica answers. Where it dies meanwhile another is asked: answering changes nothing, so it can be done twice."""
    for wait in _WAITS_S:
        response = send()
        try:
            return await response
        except RayActorError:
            if wait is None:
                raise
            await asyncio.sleep(wait)
        except asyncio.CancelledError:
            _cancel(response)
            raise


def _cancel(response: Any) -> None:
    """Give up what is still under way: nobody would read it. A response that has failed raises its error again here."""
    with suppress(RayServeException):
        response.cancel()


def _log_to_stdout(name: str) -> None:
    """Lines as they are: the ingress replica's own output, which Ray keeps in its log folder and Kubernetes' collectors read."""
    logger = logging.getLogger(name)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
