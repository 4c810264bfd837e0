"""The endpoint as a Ray Serve application: a small ingress that always runs, and one autoscaled deployment per student.

`build` is a builder for a Serve config file (`import_path: serving.app:build`), whose `args` are

    {"students": [{"name": "svamp", "folder": "runs/svamp/student"}], "serving": {"replicas": {"min": 0, "max": 4}}}

A request's inputs travel from the ingress to the student one by one; `serve.batch` in the replica puts those that
arrive together, of whatever requests, into one padded batch.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException

from pipelines.config import ServingConfig
from pipelines.config_base import Section
from pipelines.errors import StageFailedError, UserError
from serving.api import ApiError, Limits, create_app
from serving.students import Engine, Question, Reply, StudentCard, StudentName, TooLong, read_card, threads_per_replica

APPLICATION = "raystill"
MAX_INPUTS = 256
MAX_BODY_BYTES = 4 << 20
_RETRY_AFTER_S = 1
# A replica costs seconds to start and a core to keep: quick to add one, slow to take it away.
_UPSCALE_DELAY_S = 3.0
_DOWNSCALE_DELAY_S = 60.0
_TO_ZERO_DELAY_S = 300.0
_INGRESS_CPUS = 0.1
# Requests leave no line, so that no log grows with traffic or holds what users write.
_LOGGING = {"encoding": "JSON", "log_level": "WARNING", "enable_access_log": False}


class StudentArgs(Section):
    """A student to serve."""

    name: StudentName
    folder: str
    """Folder or URI that every node can read."""


class EndpointArgs(Section):
    """The arguments of `build`."""

    students: Annotated[list[StudentArgs], Field(min_length=1)]
    serving: ServingConfig = ServingConfig()

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [student.name for student in self.students]
        if len(set(names)) < len(names):
            raise ValueError(f"two students have one name ({', '.join(names)}); give each its own")
        return self


class StudentReplica:
    """One copy of a student. Answers questions one at a time to its callers, in batches inside."""

    def __init__(self, card: StudentCard, serving: ServingConfig) -> None:
        self._engine = Engine(
            card,
            max_new_tokens=serving.max_new_tokens,
            gpu=serving.gpus_per_replica > 0,
            threads=threads_per_replica(serving.replicas.max),
        )
        self._batched = serve.batch(
            max_batch_size=serving.max_batch_size, batch_wait_timeout_s=serving.batch_wait_s
        )(self._run)  # fmt: skip
        self._answered = self._batches = 0

    async def answer(self, question: Question) -> Reply | TooLong:
        """The student's answer to one question."""
        outcome: Reply | TooLong = await self._batched(question)
        return outcome

    async def _run(self, questions: list[Question]) -> list[Reply | TooLong]:
        self._answered += len(questions)
        self._batches += 1
        # In a thread, so that the next batch can form and health checks are answered meanwhile.
        return await asyncio.to_thread(self._engine.answer, questions)

    async def stats(self) -> dict[str, int]:
        """Questions answered and batches run since the replica started."""
        return {"answered": self._answered, "batches": self._batches}


class Ingress:
    """Speaks HTTP and hands questions to the students. Loads no model."""

    def __init__(self, cards: list[StudentCard], handles: dict[str, Any], serving: ServingConfig) -> None:
        self._cards, self._handles, self._serving = cards, handles, serving

    def __serve_build_asgi_app__(self) -> Any:
        # A request may not be larger than the queue: it could never be answered.
        limits = Limits(min(MAX_INPUTS, self._serving.max_queued_requests), MAX_BODY_BYTES)
        return create_app(self._cards, self.ask, limits)

    async def ask(self, name: str, questions: Sequence[Question]) -> Sequence[Reply | TooLong]:
        """Ask a student. Raises ApiError 503 where its queue is full or it is away, 504 where it takes too long."""
        responses = [self._handles[name].answer.remote(question) for question in questions]
        try:
            async with asyncio.timeout(self._serving.request_timeout_s):
                outcomes: list[Reply | TooLong] = await asyncio.gather(*responses)
                return outcomes
        except (BackPressureError, RayActorError, DeploymentUnavailableError, TimeoutError) as error:
            _cancel(responses)
            raise self._explained(name, error) from error

    def _explained(self, name: str, error: Exception) -> ApiError:
        if isinstance(error, TimeoutError):
            seconds = self._serving.request_timeout_s
            return ApiError(504, "timeout", f"model {name} did not answer within {seconds:g} s")
        if isinstance(error, BackPressureError):
            message = f"the queue of model {name} is full ({self._serving.max_queued_requests:,} inputs)"
            return ApiError(503, "queue_full", message, retry_after_s=_RETRY_AFTER_S)
        return ApiError(503, "model_away", f"model {name} is away", retry_after_s=_RETRY_AFTER_S)


def _cancel(responses: Sequence[Any]) -> None:
    """Give up what is still under way: nobody would read it. A response that has failed raises its error again here."""
    for response in responses:
        with suppress(RayServeException):
            response.cancel()


def build(args: Mapping[str, Any]) -> Any:
    """The Serve application for some students.

    Raises:
        UserError: the arguments break a rule, or a folder holds no student that can be served.
    """
    try:
        endpoint = EndpointArgs.model_validate(dict(args))
    except ValidationError as error:
        problems = "; ".join(f"`{'.'.join(map(str, e['loc']))}`: {e['msg']}" for e in error.errors())
        raise UserError("endpoint args", problems, "Correct them; `students` and `serving` are known.") from error
    serving = endpoint.serving
    cards = [read_card(student.name, student.folder) for student in endpoint.students]
    handles = {card.name: _student_deployment(card, serving).bind(card, serving) for card in cards}
    under_way = serving.max_queued_requests + serving.replicas.max * _ongoing(serving)
    ingress = serve.deployment(
        name="ingress",
        num_replicas=1,
        ray_actor_options={"num_cpus": _INGRESS_CPUS},
        # More than the students take, so that a full student is answered for by us and never by Serve's own queue.
        max_ongoing_requests=2 * under_way * len(cards),
        logging_config=_LOGGING,
    )(serve.ingress()(Ingress))
    return ingress.bind(cards, handles, serving)


def _ongoing(serving: ServingConfig) -> int:
    """Questions that a replica holds: one batch that runs and the next that forms."""
    return max(2 * serving.max_batch_size, serving.target_ongoing_requests)


def _student_deployment(card: StudentCard, serving: ServingConfig) -> Any:
    return serve.deployment(
        name=f"student-{card.name}",
        ray_actor_options={"num_cpus": 1, "num_gpus": serving.gpus_per_replica},
        max_ongoing_requests=_ongoing(serving),
        max_queued_requests=serving.max_queued_requests,
        autoscaling_config={
            "min_replicas": serving.replicas.min,
            "max_replicas": serving.replicas.max,
            "target_ongoing_requests": serving.target_ongoing_requests,
            "upscale_delay_s": _UPSCALE_DELAY_S,
            "downscale_delay_s": _DOWNSCALE_DELAY_S,
            "downscale_to_zero_delay_s": _TO_ZERO_DELAY_S,
        },
        graceful_shutdown_wait_loop_s=0.2,
        logging_config=_LOGGING,
    )(StudentReplica)


@dataclass(frozen=True)
class Endpoint:
    """A running endpoint."""

    url: str
    """Without a slash at the end."""
    models: tuple[str, ...]

    def shutdown(self, *, ray_ends: bool = False) -> None:
        """Stop the endpoint, and Serve itself where no other application runs. Requests under way are answered.

        Args:
            ray_ends: this Ray ends next, and Serve with it. (Stopped by itself, Serve reports a failed task that is none.)
        """
        others = set(serve.status().applications) - {APPLICATION}
        if others or ray_ends:
            serve.delete(APPLICATION)
        else:
            serve.shutdown()


def serve_students(students: Mapping[str, str], serving: ServingConfig) -> Endpoint:
    """Start the endpoint on the Ray that this process is connected to; returns when it takes requests.

    Args:
        students: model name -> student folder or URI.

    Raises:
        UserError: a student cannot be served, or the port is taken. Nothing has been started.
        StageFailedError: a student's replicas do not start.
    """
    named = [{"name": name, "folder": str(folder)} for name, folder in students.items()]
    application = build({"students": named, "serving": serving.model_dump()})
    _check_port(serving.host, serving.port)
    # The ingress answers a slow request with an error of ours; the proxy's own limit is for an ingress that does not.
    http = {"host": serving.host, "port": serving.port, "request_timeout_s": serving.request_timeout_s + 5.0}
    serve.start(proxy_location="HeadOnly", http_options=http, logging_config=_LOGGING)
    host = "127.0.0.1" if serving.host in {"0.0.0.0", "::"} else serving.host
    endpoint = Endpoint(f"http://{host}:{serving.port}", tuple(students))
    try:
        serve.run(application, name=APPLICATION, route_prefix="/", logging_config=_LOGGING)
    except RuntimeError as error:
        causes = _causes()
        endpoint.shutdown()
        raise StageFailedError(f"the endpoint does not start: {causes or error}") from error
    return endpoint


def _causes() -> str:
    """Why deployments of the application are not well: the last line of what each says."""
    application = serve.status().applications.get(APPLICATION)
    said = {name: d.message.strip() for name, d in application.deployments.items()} if application else {}
    return "; ".join(f"{name}: {message.splitlines()[-1]}" for name, message in said.items() if message)


def _check_port(host: str, port: int) -> None:
    """Raises UserError where the port cannot be listened on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the proxy does: a port that only waits for old connections to expire is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            rule = f"it cannot be listened on ({error.strerror})"
            raise UserError(f"serving.port {port} on {host}", rule, "Set another serving.port.") from error
