"""The endpoint as applications of Ray Serve: one that speaks HTTP, and one for each student, so that each changes by itself.

Their builders are named in a Serve config file, which serving/deploy/serve_config.py makes:

    import_path: serving.app:ingress   args: {"serving": {...}}
    import_path: serving.app:student   args: {"student": "svamp", "folder": "runs/svamp/student", "fingerprint": "9f...", "serving": {...}}
    import_path: serving.app:shared    args: {"students": {"svamp": "...", "cqa": "..."}, "fingerprints": {...}, "serving": {...}}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError
from ray import serve

from pipelines.config.base import Section
from pipelines.config.serving import INGRESS_CPUS, ServingConfig
from pipelines.errors import UserError
from serving.engines.select import cpu_environment, engine_name
from serving.ingress import STUDENT, Ingress
from serving.model_card import read_card
from serving.replica import SharedStudents, StudentReplica

_DRAIN_S = 30.0
_RETRY_AFTER_S = 1
# Serve's own logs: requests leave no line in them, so that no log grows with traffic or holds what users write.
LOGGING = {"encoding": "JSON", "log_level": "WARNING", "enable_access_log": False}
Arguments = TypeVar("Arguments", bound=Section)


class IngressArgs(Section):
    """The arguments of `ingress`."""

    serving: ServingConfig = ServingConfig()


class StudentArgs(IngressArgs):
    """The arguments of `student`."""

    student: str
    """NAME or NAME@VERSION."""
    folder: str
    """Folder or URI that every node can read."""
    fingerprint: str | None = None
    """Of the student that is meant; None: the one that lies there when the application is built."""


class SharedArgs(IngressArgs):
    """The arguments of `shared`."""

    students: Annotated[dict[str, str], Field(min_length=1)]
    """NAME or NAME@VERSION -> folder or URI."""
    fingerprints: Annotated[dict[str, str], Field(default_factory=dict)]
    """NAME or NAME@VERSION -> as of `StudentArgs`."""


def ingress(args: Mapping[str, Any]) -> Any:
    """The application that speaks HTTP. Raises UserError where the arguments break a rule."""
    serving = _checked(IngressArgs, args).serving
    # Room for what a student may have under way, and as much again: a second student's, or what is refused. More than that waits in the
    # proxies, whomever it asks.
    room = 2 * (serving.max_queued_requests + serving.replicas.max * _ongoing(serving))
    deployment = serve.deployment(
        name="ingress",
        num_replicas=serving.ingress_replicas,
        max_replicas_per_node=serving.max_replicas_per_node,
        ray_actor_options={"num_cpus": INGRESS_CPUS},
        max_ongoing_requests=room,
        # As many again wait in each proxy; to more it answers 503 by itself, with this Retry-After.
        max_queued_requests=room,
        backpressure_config={"status_code": 503, "retry_after_s": _RETRY_AFTER_S},
        graceful_shutdown_timeout_s=max(_DRAIN_S, serving.request_timeout_s),
        graceful_shutdown_wait_loop_s=0.2,
        logging_config=LOGGING,
    )(serve.ingress()(Ingress))
    return deployment.bind(serving)


def student(args: Mapping[str, Any]) -> Any:
    """The application of one student. Raises UserError where the arguments break a rule or the folder cannot be served."""
    found = _checked(StudentArgs, args)
    # A replica reads and writes texts; its student's task, code or not, is the ingress' alone.
    card = read_card(found.student, found.folder, task_code=True, fingerprint=found.fingerprint)
    engine = engine_name(card.family, found.serving)
    return _deployment(StudentReplica, found.serving, engine).bind(card, found.serving)


def shared(args: Mapping[str, Any]) -> Any:
    """The application of students that share their replicas. Raises UserError as `student` does."""
    found = _checked(SharedArgs, args)
    cards = [
        read_card(student_id, folder, task_code=True, fingerprint=found.fingerprints.get(student_id))
        for student_id, folder in found.students.items()
    ]
    engines = {engine_name(card.family, found.serving) for card in cards}
    loader = serve.multiplexed(max_num_models_per_replica=found.serving.students_per_replica or 1)
    replica = type("SharedReplica", (SharedStudents,), {"load": loader(SharedStudents.load)})
    return _deployment(replica, found.serving, *engines).bind(cards, found.serving)


def _deployment(replica: type, serving: ServingConfig, *engines: str) -> Any:
    environment = {} if serving.gpus_per_replica else cpu_environment(serving, engines)
    return serve.deployment(
        name=STUDENT,
        ray_actor_options={
            "num_cpus": 1,
            "num_gpus": serving.gpus_per_replica,
            **({"runtime_env": {"env_vars": environment}} if environment else {}),
        },
        max_replicas_per_node=serving.max_replicas_per_node,
        max_ongoing_requests=_ongoing(serving),
        max_queued_requests=serving.max_queued_requests,
        autoscaling_config={
            "min_replicas": serving.replicas.min,
            "max_replicas": serving.replicas.max,
            "target_ongoing_requests": serving.target_ongoing_requests,
            "upscale_delay_s": serving.delays.up_s,
            "downscale_delay_s": serving.delays.down_s,
            "downscale_to_zero_delay_s": serving.delays.to_zero_s,
        },
        graceful_shutdown_timeout_s=max(_DRAIN_S, serving.request_timeout_s),
        graceful_shutdown_wait_loop_s=0.2,
        logging_config=LOGGING,
    )(replica)


def _ongoing(serving: ServingConfig) -> int:
    """Questions that a replica holds: one batch that runs and the next that forms."""
    return max(2 * serving.max_batch_size, serving.target_ongoing_requests)


def _checked(section: type[Arguments], args: Mapping[str, Any]) -> Arguments:
    try:
        return section.model_validate(dict(args))
    except ValidationError as error:
        problems = "; ".join(f"`{'.'.join(map(str, e['loc']))}`: {e['msg']}" for e in error.errors())
        known = ", ".join(section.model_fields)
        raise UserError("application args", problems, f"Correct them; known are {known}.") from error
