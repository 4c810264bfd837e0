"""The endpoint as applications of Ray Serve: one for HTTP and one per student, so that each changes by itself.

A Serve config file, which serving/deploy/serve_config.py writes, names their builders:

    import_path: serving.app:ingress   args: {"serving": {...}}
    import_path: serving.app:student   args: {"student": "svamp", "folder": "runs/svamp/student", "fingerprint": "9f...", "serving": {...}}
    import_path: serving.app:shared    args: {"students": {"svamp": "...", "cqa": "..."}, "fingerprints": {...}, "serving": {...}}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeVar

from pydantic import Field, JsonValue, ValidationError
from ray import serve

from pipelines.config.base import Section
from pipelines.config.serving import INGRESS_CPUS, AutoscalingDelays, ServingConfig
from pipelines.errors import UserError
from serving.api.key_limits import LimitCounter
from serving.engines.select import cpu_environment, engine_name
from serving.engines.vllm import VLLM_BATCH
from serving.ingress import Ingress
from serving.model_card import read_card
from serving.replica import SharedStudents, StudentReplica
from serving.replica_client import STUDENT

_DRAIN_S = 30.0
_RETRY_AFTER_S = 1
_UNLIMITED = 100_000
_REPORT_S = (0.5, 10.0)
"""Least and greatest seconds between two reports of load."""
# Serve's own logs have no line per request: they neither grow with traffic nor hold what users send.
LOGGING = {"encoding": "JSON", "log_level": "WARNING", "enable_access_log": False}
_Arguments = TypeVar("_Arguments", bound=Section)


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
    """Of the expected student; None: the one in the folder when the application is built."""


class SharedArgs(IngressArgs):
    """The arguments of `shared`."""

    students: Annotated[dict[str, str], Field(min_length=1)]
    """NAME or NAME@VERSION -> folder or URI."""
    fingerprints: Annotated[dict[str, str], Field(default_factory=dict)]
    """NAME or NAME@VERSION -> as in `StudentArgs`."""


def ingress(args: Mapping[str, JsonValue]) -> serve.Application:
    """The application for HTTP. Raises UserError for invalid arguments."""
    serving = _parsed(IngressArgs, args).serving
    # Room for all requests that one student can hold, waiting and under way, twice: for a second student's requests, or for those that are
    # refused. Any more wait in the proxies, whichever student they name.
    batch = max(serving.max_batch_size or VLLM_BATCH, serving.target_ongoing_requests)
    room = 4 * (serving.max_queued_requests + serving.replicas.max * batch)
    deployment = serve.deployment(
        name="ingress",
        num_replicas=serving.ingress_replicas,
        max_replicas_per_node=serving.max_replicas_per_node,
        ray_actor_options={"num_cpus": INGRESS_CPUS},
        max_ongoing_requests=room,
        # As many again wait in each proxy. Beyond that, the proxy answers 503 with this Retry-After.
        max_queued_requests=room,
        backpressure_config={"status_code": 503, "retry_after_s": _RETRY_AFTER_S},
        graceful_shutdown_timeout_s=max(_DRAIN_S, serving.request_timeout_s),
        graceful_shutdown_wait_loop_s=0.2,
        logging_config=LOGGING,
    )(serve.ingress()(Ingress))
    if serving.ingress_replicas == 1 or not (serving.keys.file or serving.keys.variable):
        return deployment.bind(serving)
    counter = serve.deployment(
        name="key-limits", ray_actor_options={"num_cpus": 0}, max_ongoing_requests=_UNLIMITED, logging_config=LOGGING
    )(LimitCounter)
    return deployment.bind(serving, counter.bind())


def student(args: Mapping[str, JsonValue]) -> serve.Application:
    """The application of one student. Raises UserError for invalid arguments, or if the folder cannot be served."""
    parsed = _parsed(StudentArgs, args)
    # A replica maps text to text. Only the ingress runs the student's task, so a task with code is accepted here.
    card = read_card(parsed.student, parsed.folder, task_code=True, fingerprint=parsed.fingerprint)
    engine = engine_name(card.family, parsed.serving)
    return _deployment(StudentReplica, parsed.serving, engine).bind(card, parsed.serving)


def shared(args: Mapping[str, JsonValue]) -> serve.Application:
    """The application of students that share replicas. Raises UserError as `student` does."""
    parsed = _parsed(SharedArgs, args)
    cards = [
        read_card(student_id, folder, task_code=True, fingerprint=parsed.fingerprints.get(student_id))
        for student_id, folder in parsed.students.items()
    ]
    engines = {engine_name(card.family, parsed.serving) for card in cards}
    load = serve.multiplexed(max_num_models_per_replica=parsed.serving.students_per_replica or 1)(SharedStudents.load)
    replica = type("SharedReplica", (SharedStudents,), {"load": load})
    return _deployment(replica, parsed.serving, *engines).bind(cards, parsed.serving)


def _deployment(replica: type, serving: ServingConfig, *engines: str) -> serve.Deployment:
    environment = {} if serving.gpus_per_replica else cpu_environment(serving, engines)
    return serve.deployment(
        name=STUDENT,
        ray_actor_options={
            "num_cpus": 1,
            "num_gpus": serving.gpus_per_replica,
            **({"runtime_env": {"env_vars": environment}} if environment else {}),
        },
        max_replicas_per_node=serving.max_replicas_per_node,
        # The ingress queues (fair_queue.py). A full replica would make Serve's router wait up to 500 ms between attempts, and a full queue
        # of the router would refuse what the ingress has admitted.
        max_ongoing_requests=_UNLIMITED,
        max_queued_requests=-1,
        autoscaling_config={
            **_intervals(serving.delays),
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


def _intervals(delays: AutoscalingDelays) -> dict[str, float]:
    """How often load is reported, and over which time Serve averages it: so short that the delays decide, not these.

    Serve's own are 10 s and 30 s.
    """
    shortest_s = min(delays.up_s, delays.down_s, delays.to_zero_s)
    report_s = min(max(shortest_s / 4, _REPORT_S[0]), _REPORT_S[1])
    return {"metrics_interval_s": report_s, "look_back_period_s": 2 * report_s}


def _parsed(section: type[_Arguments], args: Mapping[str, JsonValue]) -> _Arguments:
    try:
        return section.model_validate(dict(args))
    except ValidationError as error:
        problems = "; ".join(f"`{'.'.join(map(str, e['loc']))}`: {e['msg']}" for e in error.errors())
        known = ", ".join(section.model_fields)
        raise UserError("application args", problems, f"Correct them; the keys are {known}.") from error
