"""Prometheus metrics of training. Ray exports them: the steps left on the node of the command, the others on the node of worker 0."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge

from pipelines.train.loss_terms import TERMS

_LOSSES = ("loss", "objective", *TERMS)
_REPEAT_S = 5.0
"""Ray drops a gauge that was not set for two of its intervals, 20 s."""


class StepsLeft:
    """Lives in the driver: a training that has lost its workers and waits for nodes still has steps left."""

    def __init__(self, run: str) -> None:
        self._run = {"run": run}
        self._left = Gauge("raystill_train_steps_left", "Steps to go; 0 when training has ended.", ("run",))

    def set(self, steps: int) -> None:
        """Call it at least every few seconds, see _REPEAT_S."""
        self._left.set(steps, self._run)


class TrainMetrics:
    """A tracker of worker 0."""

    def __init__(self, run: str, gpus: int) -> None:
        """`gpus`: of all workers together."""
        self._run, self._gpus = {"run": run}, gpus
        self._loss = Gauge(
            "raystill_train_loss",
            "Loss by term of the last step: `loss`, `label`, ...; `validation/label`, ... of the last measurement.",
            ("run", "term"),
        )
        self._tokens = Counter("raystill_train_tokens", "Unpadded tokens trained on.", ("run",))
        self._gpu_seconds = Counter("raystill_gpu_seconds", "GPUs held x seconds, by stage.", ("run", "stage"))
        self._losses: dict[str, float] = {}
        self._closed = threading.Event()
        threading.Thread(target=self._repeat, daemon=True, name="train-metrics").start()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Export the values of a step, or of a measurement in between."""
        losses = {name: value for name, value in values.items() if name.removeprefix("validation/") in _LOSSES}
        self._losses = {**self._losses, **losses}
        self._set_losses()
        if "step_s" in values:
            self._tokens.inc(values["tokens_per_s"] * values["step_s"], self._run)
            if self._gpus:
                self._gpu_seconds.inc(values["step_s"] * self._gpus, {**self._run, "stage": "train"})

    def sync(self) -> None:
        """Nothing is buffered."""

    def close(self, finished: bool) -> None:
        """Stop exporting the losses."""
        self._closed.set()

    def _repeat(self) -> None:
        # A step may take longer than Ray keeps a gauge, and one that hangs should be visible.
        while not self._closed.wait(_REPEAT_S):
            self._set_losses()

    def _set_losses(self) -> None:
        for term, value in self._losses.items():
            self._loss.set(value, {**self._run, "term": term})
