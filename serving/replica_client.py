"""Calls the students' replicas on Ray Serve.

Each input of a request travels by itself, and the replica's engine batches inputs of all requests.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException

from pipelines.config.serving import ServingConfig
from serving.api.errors import ApiError
from serving.messages import Piece, Question, Reply, TextRequest, TooLong, UnavailableError
from serving.model_card import StudentCard

STUDENT = "student"
"""The deployment in each student's application."""
SHARED = "raystill-students"
"""The application of all students, if they share replicas (`students_per_replica`)."""
_RETRY_AFTER_S = 1
_UNAVAILABLE = (BackPressureError, DeploymentUnavailableError, RayActorError, UnavailableError)
_RETRY_DELAYS_S = (0.1, 0.5, 1.0, None)
"""After the death of a replica. None: give up."""
_QUEUE_FULL_DELAY_S = 0.1
"""Before a request that is partly answered tries a full queue again."""


def application_of(student_id: str) -> str:
    """Name of a student's Serve application."""
    return f"raystill-student-{student_id}"


class ReplicaClient:
    """Implements `serving.api.backend.Backend`."""

    def __init__(self, serving: ServingConfig) -> None:
        self._serving = serving
        self._handles: dict[str, Any] = {}
        self._engines: dict[str, str] = {}

    def reset(self) -> None:
        """Forget handles and engines: the students have changed."""
        self._handles, self._engines = {}, {}

    def engine(self, card: StudentCard) -> str | None:
        """See Backend."""
        return self._engines.get(card.id)

    async def answer(self, card: StudentCard, questions: Sequence[Question]) -> Sequence[Reply | TooLong]:
        """See Backend."""
        student = self._handle(card)
        replies = await self._call_all(card, [partial(student.answer.remote, question) for question in questions])
        self._note_engine(card, replies)
        return replies

    async def write(self, card: StudentCard, requests: Sequence[TextRequest]) -> Sequence[Piece | TooLong]:
        """See Backend."""
        student = self._handle(card)
        pieces = await self._call_all(card, [partial(student.write.remote, request) for request in requests])
        self._note_engine(card, pieces)
        return pieces

    async def stream(self, card: StudentCard, request: TextRequest) -> AsyncGenerator[Piece | TooLong, None]:
        """See Backend. Closing the generator cancels the text. If a replica dies before the first piece, another one is called."""
        student = self._handle(card).options(stream=True)
        # One deadline instead of asyncio.timeout: different tasks may await the steps of a generator.
        deadline = time.monotonic() + self._serving.request_timeout_s
        started = False
        for delay in _RETRY_DELAYS_S:
            response = student.stream.remote(request)
            pieces = aiter(response)
            try:
                while True:
                    piece = await asyncio.wait_for(anext(pieces), max(deadline - time.monotonic(), 0.0))
                    started = True
                    self._note_engine(card, [piece])
                    yield piece
            except StopAsyncIteration:
                return
            except (*_UNAVAILABLE, TimeoutError) as error:
                if started or delay is None or not isinstance(error, RayActorError):
                    raise self._api_error(card, error) from error
            finally:
                _cancel(response)
            await asyncio.sleep(delay)

    def _handle(self, card: StudentCard) -> Any:
        # Cached: creating one queries Ray's control service.
        if card.id not in self._handles:
            shared = self._serving.students_per_replica is not None
            try:
                handle = serve.get_deployment_handle(STUDENT, SHARED if shared else application_of(card.id))
            except KeyError as error:  # the application does not exist yet, or no longer
                raise self._api_error(card, error) from error
            self._handles[card.id] = handle.options(multiplexed_model_id=card.id) if shared else handle
        return self._handles[card.id]

    def _note_engine(self, card: StudentCard, outcomes: Sequence[Reply | Piece | TooLong]) -> None:
        for outcome in outcomes:
            if not isinstance(outcome, TooLong) and outcome.engine is not None:
                self._engines[card.id] = outcome.engine

    async def _call_all(self, card: StudentCard, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        request = _RequestCalls()
        try:
            async with asyncio.timeout(self._serving.request_timeout_s), asyncio.TaskGroup() as group:
                tasks = [group.create_task(request.result(call)) for call in calls]
            return [task.result() for task in tasks]
        except TimeoutError as error:
            raise self._api_error(card, error) from error
        except ExceptionGroup as group_error:
            first = group_error.exceptions[0]
            if isinstance(first, _UNAVAILABLE):
                raise self._api_error(card, first) from first
            raise first from group_error

    def _api_error(self, card: StudentCard, error: Exception) -> ApiError:
        if isinstance(error, TimeoutError):
            seconds = self._serving.request_timeout_s
            return ApiError(504, "timeout", f"model {card.id} did not answer within {seconds:g} s")
        if isinstance(error, BackPressureError):
            message = f"the queue of model {card.id} is full ({self._serving.max_queued_requests:,} inputs)"
            return ApiError(503, "queue_full", message, retry_after_s=_RETRY_AFTER_S)
        return ApiError(503, "model_away", f"model {card.id} is unavailable", retry_after_s=_RETRY_AFTER_S)


class _RequestCalls:
    """The calls of one request, one per input.

    If the queue is full, calls without a place wait for the request's other calls. So two requests that are larger than the queue both
    progress. A request that gets no place at all is refused.
    """

    def __init__(self) -> None:
        self._running, self._answered = 0, False
        self._turns = asyncio.Semaphore(0)

    async def result(self, call: Callable[[], Any]) -> Any:
        """The replica's result. Raises BackPressureError if the queue is full of other requests' inputs."""
        while True:
            self._running += 1
            try:
                result = await _call(call)
            except BackPressureError:
                if self._running == 1 and not self._answered:
                    raise
            else:
                self._answered = True
                # Two calls try again per answer: the number grows to what fits, without all of them trying at once.
                self._turns.release()
                self._turns.release()
                return result
            finally:
                self._running -= 1
            if self._running:
                await self._turns.acquire()
            else:  # other requests took the places, and no call of this request will free one
                await asyncio.sleep(_QUEUE_FULL_DELAY_S)


async def _call(call: Callable[[], Any]) -> Any:
    """The replica's result. If the replica dies, another one is called: answering has no side effects."""
    for delay in _RETRY_DELAYS_S:
        response = call()
        try:
            return await response
        except RayActorError:
            if delay is None:
                raise
            await asyncio.sleep(delay)
        except asyncio.CancelledError:
            _cancel(response)
            raise


def _cancel(response: Any) -> None:
    """Cancel a call whose result nobody needs. A response that has failed raises its error again here."""
    with suppress(RayServeException):
        response.cancel()
