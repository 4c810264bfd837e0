"""The run file's `serving` section: the endpoint. Times in seconds."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipelines.config.base import LossyWeights, ReplicasConfig, Section

INGRESS_CPUS = 0.1
"""That a replica of the ingress asks Ray for."""
_Seconds = Annotated[float, Field(ge=0.0)]


class AutoscalingDelays(Section):
    """How long a load must last before replicas follow it: a replica costs seconds to start and a core to keep."""

    up_s: _Seconds = 3.0
    down_s: _Seconds = 60.0
    to_zero_s: _Seconds = 300.0
    """From the last replica to none."""


class LimitsConfig(Section):
    """What one request may hold."""

    inputs: Annotated[int, Field(ge=1)] = 256
    body_bytes: Annotated[int, Field(ge=1024)] = 4 << 20
    input_characters: Annotated[int, Field(ge=1)] = 100_000
    """Of one input; the student's own limit in tokens comes after it."""


class KeysConfig(Section):
    """Who may ask. Neither file nor variable: everyone who reaches the port."""

    file: str | None = None
    """Lines of `NAME sha256:HASH [REQUESTS_PER_MINUTE]`, made by `raystill key NAME`; a change of the file counts within seconds."""
    variable: str | None = None
    """Environment variable of the ingress with `NAME=KEY` pairs, separated by commas."""
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    """For each key that names no limit of its own; None: no limit."""


class ServingConfig(Section):
    """The endpoint."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    replicas: ReplicasConfig = ReplicasConfig(min=0, max=4)
    gpus_per_replica: Literal[0, 1] = 0
    max_replicas_per_node: Annotated[int, Field(ge=1, le=100)] | None = None
    """Of a student, and of the ingress: with 1 a lost node takes one replica of each at the most. A replica waits where no node has room
    for it, its successor on a drained node too. None: they are spread, but share a node where there is only one with room."""
    engine: Literal["auto", "transformers", "ctranslate2", "vllm"] = "auto"
    """auto: the fastest that keeps the weights' accuracy, by family and device (serving/engines/select.py)."""
    weights: Literal["float32"] | LossyWeights = "float32"
    """bfloat16 and int8 are faster and may change answers: `evaluation.weights` shows by how much."""
    cpu_kv_cache_gib: Annotated[int, Field(ge=1)] = 1
    """vllm without a GPU: memory of a replica for the keys and values of the texts under way."""
    target_ongoing_requests: Annotated[int, Field(ge=1)] = 8
    max_batch_size: Annotated[int, Field(ge=1)] = 16
    batch_wait_s: _Seconds = 0.01
    max_queued_requests: Annotated[int, Field(ge=1)] = 256
    request_timeout_s: Annotated[float, Field(gt=0.0)] = 120.0
    """Of one answer, the start of a replica from zero included."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 64
    delays: AutoscalingDelays = AutoscalingDelays()
    students_per_replica: Annotated[int, Field(ge=1)] | None = None
    """None: each student has replicas of its own. A number: all students share the replicas, and each replica keeps that many loaded,
    those that were asked last."""
    ingress_replicas: Annotated[int, Field(ge=1)] = 1
    limits: LimitsConfig = LimitsConfig()
    keys: KeysConfig = KeysConfig()
    task_code: bool = False
    """Whether a student may be served whose task is code of its own (a task file): that code runs in the ingress and in the command."""
    cors_origins: list[str] = []
    """Web pages that may ask from a browser, such as https://app.example.com; `*`: all."""
    access_log: bool = False
    """One JSON line for each request, without what was asked: in the log of the ingress replica."""
    log_text: bool = False
    """The access log holds inputs and answers too."""

    @model_validator(mode="after")
    def _logs_text_somewhere(self) -> Self:
        if self.log_text and not self.access_log:
            raise ValueError("log_text adds to the access log; set access_log: true, or log_text: false")
        return self
