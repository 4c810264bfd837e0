"""Prometheus gauges that every stage exports, on the metrics port of the node on which its driver runs."""

from __future__ import annotations

from pipelines.runtime.stage_progress import StageName

_LABELS = ("run", "stage")


class StageGauges:
    """The gauges of one stage of a run."""

    def __init__(self, run: str, stage: StageName) -> None:
        from ray.util.metrics import Gauge

        self._series = {"run": run, "stage": stage}
        self._done = Gauge(
            "raystill_stage_done",
            "Units done: rows of label, tokens of train, examples of evaluate, cells of compare.",
            _LABELS,
        )
        self._total = Gauge("raystill_stage_total", "Units of the whole stage; missing until they are known.", _LABELS)

    def __call__(self, done: int, total: int | None) -> None:
        """Export the state. Call it every few seconds: Ray drops a gauge that is not set for two of its intervals, 20 s."""
        self._done.set(done, self._series)
        if total is not None:
            self._total.set(total, self._series)
