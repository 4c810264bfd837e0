"""The ingress: speaks HTTP and hands questions to the students' replicas. Loads no model, always runs.

A request's inputs travel to the student one by one; its engine puts those that arrive together, of whatever requests, into one batch.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException

from pipelines.config_serving import ServingConfig
from pipelines.errors import UserError
from pipelines.tasks.registry import load_task
from serving.api.app import Api, create_app
from serving.api.errors import ApiError
from serving.api.watch import ACCESS_LOG
from serving.cards import StudentCard, read_card
from serving.keys import KeyRing
from serving.metrics import IngressMetrics
from serving.questions import AwayError, Piece, Question, Reply, TextOrder, TooLong
from serving.roster import READ_AGAIN_S, Roster

STUDENT = "student"
"""The deployment of each student's application."""
SHARED = "raystill-students"
"""The application that all students share, with `students_per_replica`."""
_RETRY_AFTER_S = 1
_AWAY = (BackPressureError, DeploymentUnavailableError, RayActorError, AwayError)
_WAITS_S = (0.1, 0.5, 1.0, None)
"""Before a question is asked again whose replica has died; None: it has been asked often enough."""
_logger = logging.getLogger(__name__)


def application_of(student_id: str) -> str:
    """The Serve application of a student."""
    return f"raystill-student-{student_id}"


class Ingress:
    """Requests in, questions out. Which students there are comes by `reconfigure`, while it runs."""

    def __init__(self, serving: ServingConfig) -> None:
        self._serving = serving
        self._roster = Roster()
        self._handles: dict[str, Any] = {}
        self._engines: dict[str, str] = {}
        self._reader: asyncio.Task[None] | None = None
        """Tries again to read the folders of students that are away."""
        self._metrics = IngressMetrics()
        self._keys = KeyRing(serving.keys, share=serving.ingress_replicas)
        if serving.access_log:
            _log_to_stdout(ACCESS_LOG)

    async def reconfigure(self, endpoint: dict[str, Any]) -> None:
        """Take other students, or other shares of their versions. One whose folder cannot be read is away and tried again; others answer.

        Args:
            endpoint: {"students": {id: folder}, "fingerprints": {id: fingerprint}, "split": {name: {version: percent}}}.
        """
        if self._reader is not None:
            self._reader.cancel()
        folders, meant = endpoint["students"], endpoint.get("fingerprints", {})
        same = [
            card
            for card in self._roster.cards
            if folders.get(card.id) == card.folder and meant.get(card.id, card.fingerprint) == card.fingerprint
        ]
        self._roster = await self._read(endpoint, same)
        self._handles, self._engines = {}, {}
        self._reader = asyncio.create_task(self._read_again(endpoint)) if self._roster.away else None

    def away(self) -> dict[str, str]:
        """Students whose folders this replica cannot read, and why; for whoever has deployed them."""
        return dict(self._roster.away)

    async def _read_again(self, endpoint: dict[str, Any]) -> None:
        while self._roster.away:
            await asyncio.sleep(READ_AGAIN_S)
            self._roster = await self._read(endpoint, self._roster.cards)

    async def _read(self, endpoint: dict[str, Any], cards: Sequence[StudentCard]) -> Roster:
        """The students of a config: those that are known already, and what the folders of the others say."""
        folders, meant = endpoint["students"], endpoint.get("fingerprints", {})
        found: dict[str, StudentCard | str] = {card.id: card for card in cards}
        left = [student_id for student_id in folders if student_id not in found]
        # Side by side: a store that does not answer takes a minute for each.
        read = [asyncio.to_thread(self._card, student_id, folders[student_id], meant) for student_id in left]
        found |= zip(left, await asyncio.gather(*read), strict=True)
        ordered = {student_id: found[student_id] for student_id in folders}
        return Roster(
            [card for card in ordered.values() if isinstance(card, StudentCard)],
            endpoint.get("split", {}),
            {student_id: why for student_id, why in ordered.items() if isinstance(why, str)},
        )

    def _card(self, student_id: str, folder: str, meant: Mapping[str, str]) -> StudentCard | str:
        """A student's card, or why there is none."""
        before = self._roster.away.get(student_id)
        try:
            card = read_card(student_id, folder, task_code=self._serving.task_code)
            load_task(card.task)
        except (UserError, OSError) as error:
            if str(error) != before:
                _logger.error("student %s is away: %s", student_id, error)
            return str(error)
        if before is not None:
            _logger.warning("student %s is back", student_id)
        if card.fingerprint != meant.get(student_id, card.fingerprint):
            # No reason to be away: its replicas, and all other students, still answer.
            _logger.warning("%s holds another student than the one that was deployed as %s", folder, student_id)
        return card

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

    async def write(self, card: StudentCard, orders: Sequence[TextOrder]) -> Sequence[Piece | TooLong]:
        """See `Backend`."""
        student = self._handle(card)
        pieces = await self._all(card, [partial(student.write.remote, order) for order in orders])
        self._note_engine(card, pieces)
        return pieces

    async def stream(self, card: StudentCard, order: TextOrder) -> AsyncGenerator[Piece | TooLong, None]:
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
        try:
            async with asyncio.timeout(self._serving.request_timeout_s), asyncio.TaskGroup() as group:
                tasks = [group.create_task(_answered(send)) for send in sends]
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
