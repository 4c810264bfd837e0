"""The run file's `serving` section: the endpoint. Times in seconds."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, model_validator

from pipelines.config.base import LossyWeights, ReplicasConfig, Section

INGRESS_CPUS = 0.1
"""CPUs that Ray reserves for a replica of the ingress."""
_Seconds = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class AutoscalingDelays(Section):
    """How long load must persist before scaling: a replica takes seconds to start and a core to keep."""

    up_s: _Seconds = 3.0
    down_s: _Seconds = 60.0
    to_zero_s: _Seconds = 300.0
    """From one replica to none."""


class LimitsConfig(Section):
    """Limits of one request."""

    inputs: Annotated[int, Field(ge=1)] = 256
    body_bytes: Annotated[int, Field(ge=1024)] = 4 << 20
    input_characters: Annotated[int, Field(ge=1)] = 100_000
    """Per input. The student's own limit applies as well: its tokens, and 32 characters for each of them."""


class KeysConfig(Section):
    """API keys. If neither file nor variable is set, the endpoint is open; on a host that others reach, only with `keys: none`."""

    file: str | None = None
    """Lines of `NAME sha256:HASH [REQUESTS_PER_MINUTE]`, made by `raystill key NAME`. Changes take effect within seconds."""
    variable: str | None = None
    """Environment variable of the ingress with comma-separated `NAME=KEY` pairs."""
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    """For keys without a limit of their own. None: no limit."""
    inputs_per_minute: Annotated[int, Field(ge=1)] | None = None
    """Of each key. None: no limit."""
    tokens_per_minute: Annotated[int, Field(ge=1)] | None = None
    """Of each key, read and generated. A request that starts below the limit is answered whole. None: no limit."""
    none: bool = False
    """`keys: none` in the run file: everyone who reaches the port may ask."""

    @model_validator(mode="before")
    @classmethod
    def _read_none(cls, value: object) -> object:
        return {"none": True} if value == "none" else value

    @model_validator(mode="after")
    def _check_none(self) -> Self:
        if self.none and (self.file or self.variable):
            raise ValueError("keys are set and refused at once; leave out `none`, or file and variable")
        return self


class TlsConfig(Section):
    """Files in PEM form on each node with a proxy."""

    certificate: str
    """With the certificates of its issuers, if clients do not know them."""
    key: str


class ServingConfig(Section):
    """The endpoint."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    replicas: ReplicasConfig = ReplicasConfig(min=0, max=4)
    gpus_per_replica: Annotated[int, Field(ge=0, le=16)] = 0
    """Above 1: vLLM computes a student on all of them (tensor parallel)."""
    max_replicas_per_node: Annotated[int, Field(ge=1, le=100)] | None = None
    """Of each student and of the ingress: with 1, a lost node takes at most one replica of each. A replica without a node waits, also the
    successor of one on a drained node. None: replicas are spread, and share a node if only one has room."""
    engine: Literal["auto", "transformers", "ctranslate2", "vllm"] = "auto"
    """auto: the fastest one that keeps the accuracy, by family and device (serving/engines/select.py)."""
    weights: Literal["float32", LossyWeights] = "float32"
    """bfloat16, float16 (decoder-only) and int8 (encoder-decoder) are faster and may change answers; `evaluation.weights` measures it."""
    constrained: bool = False
    """True: labels of a closed set only, never free text; `evaluation.constrained` measures it. Of `/v1/predict`: texts stay free."""
    engine_args: dict[str, JsonValue] = {}
    """vllm: more arguments of its engine, such as kv_cache_dtype. `evaluate` does not have them: leave those out that change answers."""
    cpu_kv_cache_gib: Annotated[int, Field(ge=1)] = 1
    """vllm without a GPU: memory of a replica for keys and values."""
    target_ongoing_requests: Annotated[int, Field(ge=1)] = 8
    """Calls in progress at which a replica answers fast enough; above it, another replica starts. Beside interactive requests, bulk
    requests have at most as many inputs in progress."""
    max_batch_size: Annotated[int, Field(ge=1)] | None = None
    """Inputs that an engine computes at once: of vLLM all (None: 256), of the other engines those of one worker thread (None: 16)."""
    batch_wait_s: _Seconds = 0.01
    max_queued_requests: Annotated[int, Field(ge=1)] = 256
    """Inputs that wait in each ingress for a student's replicas, of interactive and of bulk requests each."""
    request_timeout_s: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 120.0
    """Limit for one answer, including a replica's start from zero."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 64
    delays: AutoscalingDelays = AutoscalingDelays()
    students_per_replica: Annotated[int, Field(ge=1)] | None = None
    """None: each student has its own replicas. A number: all students share replicas, and each replica keeps this many loaded, the most
    recently used ones."""
    ingress_replicas: Annotated[int, Field(ge=1)] = 1
    limits: LimitsConfig = LimitsConfig()
    keys: KeysConfig = KeysConfig()
    tls: TlsConfig | None = None
    """None: plain HTTP."""
    allowed_hosts: list[str] = []
    """Names in the Host header that are answered. Empty: on a loopback host its own names, otherwise all. `*`: all."""
    task_code: bool = False
    """Serve students whose task is a task file. Its code runs in the ingress and in the command."""
    cors_origins: list[str] = []
    """Origins of web pages that may send requests, such as https://app.example.com. `*`: all."""
    access_log: bool = False
    """One JSON line per request in the log of the ingress replica, without inputs."""
    log_text: bool = False
    """Add inputs and answers to the access log."""

    traces: Annotated[str, Field(pattern=r"^https?://[^@\s]+$")] | None = None
    """OpenTelemetry collector that takes OTLP over HTTP, such as http://collector:4318; without credentials. None: no traces."""

    @model_validator(mode="after")
    def _logs_text_somewhere(self) -> Self:
        if self.log_text and not self.access_log:
            raise ValueError("log_text adds to the access log; set access_log: true, or log_text: false")
        return self
