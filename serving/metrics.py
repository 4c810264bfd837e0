"""What Prometheus sees of the endpoint, beside Ray Serve's own series. Exported by Ray, on the metrics port of each node,
with `ray_` before each name and `_total` after those of counters.

| metric                                | kind      | labels               |
| raystill_requests                     | counter   | route, model, status |
| raystill_errors                       | counter   | route, model, code   |
| raystill_tokens                       | counter   | model, direction     |
| raystill_request_seconds              | histogram | route, model         |
| raystill_time_to_first_token_seconds  | histogram | model                |
| raystill_queue_seconds                | histogram | model                |
| raystill_batch_size                   | histogram | model                |

raystill_queue_seconds begins where a text has reached a replica. Before that it may have waited in the ingress for one that has room:
ray_serve_request_router_fulfillment_time_ms, of the student's application, which the dashboard shows beside it.

raystill_batch_size is of padded batches; vLLM, whose batches change with every token, has none. `model` is a student's id, with its
version where it has one; empty where a request got as far as none. Replicas, ongoing and queued requests are Ray Serve's:
ray_serve_deployment_replica_healthy, ray_serve_replica_processing_queries and the like.

Ray exports the sum of a histogram from the middles of its buckets. Counts are exact: texts per padded batch are
raystill_queue_seconds_count / raystill_batch_size_count.
"""

from __future__ import annotations

from ray.util.metrics import Counter, Histogram

_SECONDS = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]
_SIZES = [1, 2, 4, 8, 16, 32, 64, 128]


class IngressMetrics:
    """Of requests, in the ingress."""

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
            "raystill_tokens", description="Tokens read (in) and written (out).", tag_keys=("model", "direction")
        )
        self._seconds = Histogram(
            "raystill_request_seconds", description="From a request's head to the end of its answer.",
            boundaries=_SECONDS, tag_keys=("route", "model"),
        )  # fmt: skip
        self._first = Histogram(
            "raystill_time_to_first_token_seconds", description="Of streams: from the order to the first piece.",
            boundaries=_SECONDS, tag_keys=("model",),
        )  # fmt: skip

    def request(self, route: str, model: str, status: int, seconds: float, code: str | None) -> None:
        """One answered request; `code`: of its error."""
        self._requests.inc(tags={"route": route, "model": model, "status": str(status)})
        self._seconds.observe(seconds, tags={"route": route, "model": model})
        if code:
            self._errors.inc(tags={"route": route, "model": model, "code": code})

    def tokens(self, model: str, read: int, written: int) -> None:
        """Tokens of one answer."""
        for direction, count in (("in", read), ("out", written)):
            if count:
                self._tokens.inc(count, tags={"model": model, "direction": direction})

    def first_token(self, model: str, seconds: float) -> None:
        """A stream's first piece."""
        self._first.observe(seconds, tags={"model": model})


class ReplicaMetrics:
    """Of one student's batches, in a replica."""

    def __init__(self, model: str) -> None:
        self._model = {"model": model}
        self._size = Histogram(
            "raystill_batch_size", description="Texts in a padded batch.", boundaries=_SIZES, tag_keys=("model",)
        )
        self._queue = Histogram(
            "raystill_queue_seconds", description="From a text's arrival at the engine to its place in a batch.",
            boundaries=_SECONDS, tag_keys=("model",),
        )  # fmt: skip

    def batch(self, waited_s: list[float]) -> None:
        """One batch, by how long each of its texts has waited."""
        self._size.observe(max(len(waited_s), 1), tags=self._model)
        for seconds in waited_s:
            self.waited(seconds)

    def waited(self, seconds: float) -> None:
        """One text has found its place in a batch."""
        self._queue.observe(max(seconds, 0.0), tags=self._model)
