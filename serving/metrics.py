"""Prometheus metrics of the endpoint, beside Ray Serve's own. Ray exports them on each node's metrics port, with the prefix `ray_` and,
for counters, the suffix `_total`.

| metric                                | kind      | labels               |
| raystill_requests                     | counter   | route, model, status |
| raystill_errors                       | counter   | route, model, code   |
| raystill_tokens                       | counter   | model, direction     |
| raystill_request_seconds              | histogram | route, model         |
| raystill_time_to_first_token_seconds  | histogram | model                |
| raystill_queue_seconds                | histogram | model                |
| raystill_batch_size                   | histogram | model                |

`model` is a student's id, with its version if it has one. It is empty if the request failed before a student was selected.

raystill_queue_seconds starts when a text reaches a replica. The wait for a replica before that is Serve's
ray_serve_request_router_fulfillment_time_ms of the student's application; the dashboard shows both.

vLLM's own metrics are exported too, as ray_vllm_..., with the student's id as `model_name`.

raystill_batch_size counts padded batches. vLLM has none: its batches change with every token. Replicas, running and queued requests are
Ray Serve's metrics, such as ray_serve_deployment_replica_healthy and ray_serve_replica_processing_queries.

Ray computes the sum of a histogram from the middles of its buckets; counts are exact. Texts per padded batch are
raystill_queue_seconds_count / raystill_batch_size_count.
"""

from __future__ import annotations

from ray.util.metrics import Counter, Histogram

_SECONDS = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]
_SIZES = [1, 2, 4, 8, 16, 32, 64, 128]


class IngressMetrics:
    """Metrics of requests."""

    def __init__(self) -> None:
        self._requests = Counter(
            "raystill_requests",
            description="Requests by route, model and status.",
            tag_keys=("route", "model", "status"),
        )
        self._errors = Counter(
            "raystill_errors", description="Errors by route, model and code.", tag_keys=("route", "model", "code")
        )
        self._tokens = Counter(
            "raystill_tokens", description="Tokens read (in) and generated (out).", tag_keys=("model", "direction")
        )
        self._seconds = Histogram(
            "raystill_request_seconds", description="Time from a request's head to the end of its response.",
            boundaries=_SECONDS, tag_keys=("route", "model"),
        )  # fmt: skip
        self._first = Histogram(
            "raystill_time_to_first_token_seconds", description="Time from a stream's request to its first piece.",
            boundaries=_SECONDS, tag_keys=("model",),
        )  # fmt: skip

    def request(self, route: str, model: str, status: int, seconds: float, code: str | None) -> None:
        """Count one response. `code`: of its error."""
        self._requests.inc(tags={"route": route, "model": model, "status": str(status)})
        self._seconds.observe(seconds, tags={"route": route, "model": model})
        if code:
            self._errors.inc(tags={"route": route, "model": model, "code": code})

    def tokens(self, model: str, read: int, written: int) -> None:
        """Count the tokens of one response."""
        for direction, count in (("in", read), ("out", written)):
            if count:
                self._tokens.inc(count, tags={"model": model, "direction": direction})

    def first_token(self, model: str, seconds: float) -> None:
        """Count a stream's first piece."""
        self._first.observe(seconds, tags={"model": model})


class ReplicaMetrics:
    """Metrics of one student's batches."""

    def __init__(self, model: str) -> None:
        self._model = {"model": model}
        self._size = Histogram(
            "raystill_batch_size", description="Texts in a padded batch.", boundaries=_SIZES, tag_keys=("model",)
        )
        self._queue = Histogram(
            "raystill_queue_seconds", description="Time from a text's arrival at the engine to its place in a batch.",
            boundaries=_SECONDS, tag_keys=("model",),
        )  # fmt: skip

    def batch(self, waited_s: list[float]) -> None:
        """Count one batch. `waited_s`: waiting time of each of its texts."""
        self._size.observe(max(len(waited_s), 1), tags=self._model)
        for seconds in waited_s:
            self.waited(seconds)

    def waited(self, seconds: float) -> None:
        """Count one text that got its place in a batch."""
        self._queue.observe(max(seconds, 0.0), tags=self._model)
