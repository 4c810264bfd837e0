"""Calls the students' replicas on Ray Serve.

A request sends its inputs in slices, when it is its turn (fair_queue.py). Serve's router never refuses or delays a call: the ingress admits
fewer inputs than replicas take calls.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, contextmanager, suppress
from functools import partial
from typing import Any, Literal

from opentelemetry.trace import Tracer
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import DeploymentUnavailableError, RayServeException

from pipelines.config.serving import ServingConfig
from serving.api.errors import ApiError
from serving.fair_queue import FairQueue, QueueFullError, Turns
from serving.messages import Batch, Failed, Piece, Question, Reply, TextRequest, TooLong, UnavailableError
from serving.model_card import StudentCard
from serving.poison import Poison, is_another_death
from serving.tracing import NO_TRACER, part_span

STUDENT = "student"
"""The deployment in each student's application."""
SHARED = "raystill-students"
"""The application of all students, if they share replicas (`students_per_replica`)."""
_RETRY_AFTER_S = 1
_UNAVAILABLE = (DeploymentUnavailableError, RayActorError, UnavailableError)
_RETRY_DELAYS_S = (0.1, 0.5, 1.0)
"""After the death of a replica: Serve may still route calls to it."""
_FIRST_COMPUTED = 32
"""Inputs that an unknown replica computes at once."""
_FORGET_REPLICA_S = 30.0
_Method = Literal["answer", "write"]
_Item = Question | TextRequest


def application_of(student_id: str) -> str:
    """Name of a student's Serve application."""
    return f"raystill-student-{student_id}"


class StudentQueue:
    """A student's queue, whose room follows the replicas that answer."""

    def __init__(self, serving: ServingConfig) -> None:
        self._serving = serving
        self._seen: dict[str, float] = {}
        """Replica -> time of its last reply."""
        computed, target = self._room(serving.max_batch_size or _FIRST_COMPUTED)
        self.turns = FairQueue(max_waiting=serving.max_queued_requests, computed=computed, target=target)

    def note(self, batch: Batch[Any]) -> None:
        """A replica has replied."""
        now = time.monotonic()
        self._seen[batch.replica] = now
        self._seen = {replica: at for replica, at in self._seen.items() if now - at < _FORGET_REPLICA_S}
        computed, target = self._room(batch.computed)
        self.turns.resize(computed, target, continuous=batch.continuous)

    def _room(self, computed: int) -> tuple[int, int]:
        """This ingress' part of what all replicas compute at once, and of their target."""
        replicas = min(max(len(self._seen), 1), self._serving.replicas.max)
        share = self._serving.ingress_replicas
        return replicas * computed // share, replicas * self._serving.target_ongoing_requests // share


class ReplicaClient:
    """What the API calls. Tests use a fake.

    Requests raise ApiError 503 if the student's queue is full or the student is unavailable, and 504 after the time limit.
    `client`: the name of the key, or the client's address. Clients take turns.
    """

    def __init__(self, serving: ServingConfig, tracer: Tracer = NO_TRACER) -> None:
        self._serving, self._tracer = serving, tracer
        self._handles: dict[str, Any] = {}
        self._engines: dict[str, str] = {}
        self._queues: dict[str, StudentQueue] = {}
        self._poison = Poison()
        self.open_requests: Counter[str] = Counter()
        """Requests in the queues and with the replicas, by student id."""

    def reset(self) -> None:
        """Forget handles and engines: the students have changed. Requests keep their places."""
        self._handles, self._engines = {}, {}

    def engine(self, card: StudentCard) -> str | None:
        """The engine that answered last for a student; None before its first answer."""
        return self._engines.get(card.id)

    async def answer(
        self, card: StudentCard, questions: Sequence[Question], client: str
    ) -> Sequence[Reply | TooLong | Failed]:
        """One outcome per question, in order."""
        return await self._call_all(card, "answer", questions, client)

    async def write(
        self, card: StudentCard, requests: Sequence[TextRequest], client: str
    ) -> Sequence[Piece | TooLong | Failed]:
        """One whole text per request, in order."""
        return await self._call_all(card, "write", requests, client)

    async def stream(
        self, card: StudentCard, request: TextRequest, client: str
    ) -> AsyncGenerator[Piece | TooLong | Failed, None]:
        """One text while it is generated. Closing the generator cancels it. If a replica dies before the first piece, another is called."""
        student = self._handle(card).options(stream=True)
        if self._poison.refuses(card.content, request.whole):
            yield Failed(kills=True)
            return
        # One deadline instead of asyncio.timeout: different tasks may await the steps of a generator.
        deadline = time.monotonic() + self._serving.request_timeout_s
        with self._enter(card, [request], client) as turns:
            try:
                with part_span(self._tracer, "queue"):
                    place = await asyncio.wait_for(turns.take(), max(deadline - time.monotonic(), 0.0))
            except TimeoutError as error:
                raise self._api_error(card, error) from error
            # Not the current span: different tasks may await the steps of a generator.
            span = self._tracer.start_span("replica", attributes={"raystill.inputs": 1})
            try:
                async with aclosing(self._pieces(card, student, request, deadline)) as pieces:
                    async for piece in pieces:
                        yield piece
            finally:
                span.end()
                turns.done(len(place))

    async def _pieces(
        self, card: StudentCard, student: Any, request: TextRequest, deadline: float
    ) -> AsyncGenerator[Piece | TooLong | Failed, None]:
        started, death, delays = False, None, iter(_RETRY_DELAYS_S)
        async with AsyncExitStack() as alone:
            while True:
                response = student.stream.remote(request)
                pieces = aiter(response)
                try:
                    while True:
                        piece = await asyncio.wait_for(anext(pieces), max(deadline - time.monotonic(), 0.0))
                        if isinstance(piece, Batch):
                            self._queues[card.id].note(piece)
                            continue
                        if not started:
                            started = True
                            await alone.aclose()
                        self._note_engine(card, [piece])
                        yield piece
                except StopAsyncIteration:
                    return
                except (*_UNAVAILABLE, TimeoutError) as error:
                    delay = next(delays, None)
                    if started or delay is None or not isinstance(error, RayActorError):
                        raise self._api_error(card, error) from error
                    if death is not None and is_another_death(error, death):
                        self._poison.refuse(card.content, request.whole)
                        yield Failed(kills=True)
                        return
                    first, death = death is None, error
                finally:
                    _cancel(response)
                if first:
                    try:
                        async with asyncio.timeout(max(deadline - time.monotonic(), 0.0)):
                            await alone.enter_async_context(self._poison.alone(card.id))
                    except TimeoutError as error:
                        raise self._api_error(card, error) from error
                await asyncio.sleep(delay)

    @contextmanager
    def _enter(self, card: StudentCard, items: Sequence[_Item], client: str) -> Iterator[Turns]:
        """The request's place in the student's queue. Raises ApiError 503 if the queue is full."""
        if card.id not in self._queues:
            self._queues[card.id] = StudentQueue(self._serving)
        costs = [float(len(item.whole)) for item in items]
        bulk = bool(items) and items[0].bulk
        self.open_requests[card.id] += 1
        try:
            with self._queues[card.id].turns.enter(client, costs, bulk=bulk) as turns:
                yield turns
        except QueueFullError as error:
            message = f"the queue of model {card.id} is full ({self._serving.max_queued_requests:,} inputs)"
            raise ApiError(503, "queue_full", message, retry_after_s=_RETRY_AFTER_S) from error
        finally:
            self.open_requests[card.id] -= 1

    def _handle(self, card: StudentCard) -> Any:
        # Cached: creating one queries Ray's control service.
        if card.id not in self._handles:
            shared = self._serving.students_per_replica is not None
            try:
                handle = serve.get_deployment_handle(STUDENT, self._application(card))
            except KeyError as error:  # the application does not exist yet, or no longer
                raise self._api_error(card, error) from error
            self._handles[card.id] = handle.options(multiplexed_model_id=card.id) if shared else handle
        return self._handles[card.id]

    def _application(self, card: StudentCard) -> str:
        return application_of(card.id) if self._serving.students_per_replica is None else SHARED

    def _note_engine(self, card: StudentCard, outcomes: Sequence[Reply | Piece | TooLong | Failed]) -> None:
        for outcome in outcomes:
            if isinstance(outcome, (Reply, Piece)) and outcome.engine is not None:
                self._engines[card.id] = outcome.engine

    async def _call_all(self, card: StudentCard, method: _Method, items: Sequence[_Item], client: str) -> list[Any]:
        outcomes: list[Any] = [None] * len(items)
        sent = []
        for row, item in enumerate(items):
            if self._poison.refuses(card.content, item.whole):
                outcomes[row] = Failed(kills=True)
            else:
                sent.append(row)
        if not sent:
            return outcomes

        async def send(rows: list[int]) -> float:
            began = time.monotonic()
            found = await self._slice(card, method, [items[row] for row in rows])
            for row, outcome in zip(rows, found, strict=True):
                outcomes[row] = outcome
            return time.monotonic() - began

        self._handle(card)  # a missing application is an error now, not in a group
        try:
            async with asyncio.timeout(self._serving.request_timeout_s):
                with self._enter(card, [items[row] for row in sent], client) as turns:
                    async with asyncio.TaskGroup() as group:
                        while taken := await self._turn(turns):
                            task = group.create_task(send([sent[i] for i in taken]))
                            # Not in `send`: of a task that is cancelled before its first step, nothing runs.
                            task.add_done_callback(partial(_free_places, turns, len(taken)))
        except TimeoutError as error:
            raise self._api_error(card, error) from error
        except ExceptionGroup as group_error:
            first = group_error.exceptions[0]
            if isinstance(first, _UNAVAILABLE):
                raise self._api_error(card, first) from first
            raise first from group_error
        self._note_engine(card, outcomes)
        return outcomes

    async def _turn(self, turns: Turns) -> range:
        if not turns.waiting:
            return range(0)
        with part_span(self._tracer, "queue"):
            return await turns.take()

    async def _slice(self, card: StudentCard, method: _Method, items: Sequence[_Item]) -> Sequence[Any]:
        """The outcomes of some inputs. If their replica dies, each is sent once more, alone: one of them may have killed it."""
        try:
            return await self._call(card, method, items)
        except RayActorError as death:
            return [await self._send_alone(card, method, item, death) for item in items]

    async def _send_alone(self, card: StudentCard, method: _Method, item: _Item, death: RayActorError) -> Any:
        async with self._poison.alone(card.id):
            for delay in _RETRY_DELAYS_S:
                if self._poison.refuses(card.content, item.whole):
                    return Failed(kills=True)
                await asyncio.sleep(delay)
                try:
                    [outcome] = await self._call(card, method, [item])
                except RayActorError as error:
                    if is_another_death(error, death):
                        self._poison.refuse(card.content, item.whole)
                    death = error
                else:
                    return outcome
            if self._poison.refuses(card.content, item.whole):
                return Failed(kills=True)
            raise death

    async def _call(self, card: StudentCard, method: _Method, items: Sequence[_Item]) -> Sequence[Any]:
        with part_span(self._tracer, "replica", len(items)):
            response = getattr(self._handle(card), method).remote(items)
            try:
                batch: Batch[Any] = await response
            except asyncio.CancelledError:
                _cancel(response)
                raise
        self._queues[card.id].note(batch)
        return batch.outcomes

    def _api_error(self, card: StudentCard, error: Exception) -> ApiError:
        if isinstance(error, TimeoutError):
            seconds = self._serving.request_timeout_s
            return ApiError(504, "timeout", f"model {card.id} did not answer within {seconds:g} s")
        return ApiError(503, "model_away", f"model {card.id} is unavailable", retry_after_s=_RETRY_AFTER_S)


def _free_places(turns: Turns, count: int, sent: asyncio.Task[float]) -> None:
    """Free the places of a slice of inputs. `sent`: seconds until it was answered."""
    answered = not sent.cancelled() and sent.exception() is None
    turns.done(count, sent.result() if answered else None)


def _cancel(response: Any) -> None:
    """Cancel a call whose result nobody needs. A response that has failed raises its error again here."""
    with suppress(RayServeException):
        response.cancel()
