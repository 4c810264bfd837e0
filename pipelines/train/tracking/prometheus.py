"""What Prometheus sees of training. Exported by Ray: the steps that are left on the metrics port of the node on which the command runs, the
rest on that of worker 0's.

| metric                    | kind    | labels     |                                                                             |
| raystill_train_loss       | gauge   | run, term  | `loss`, `label`, `rationale` ... of the last step; `validation/label` ... of |
|                           |         |            | the last measurement of the validation split                                |
| raystill_train_steps_left | gauge   | run        | 0 when the training has ended; told also while there is no worker           |
| raystill_train_tokens     | counter | run        | real (unpadded) tokens learnt                                               |
| raystill_gpu_seconds      | counter | run, stage | GPUs of all workers x seconds of steps; labelling counts its own            |
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge

from pipelines.train.loss_terms import TERMS

_LOSSES = ("loss", "objective", *TERMS)
_EVERY_S = 5.0


class StepsLeft:
    """In the driver: a training that has lost its workers, and waits for nodes, still has steps to go."""

    def __init__(self, run: str) -> None:
        self._run = {"run": run}
        self._left = Gauge("raystill_train_steps_left", "Steps to go.", ("run",))

    def tell(self, steps: int) -> None:
        """To be called every few seconds: Ray forgets a gauge that it was not told for two of its intervals, 20 s."""
        self._left.set(steps, self._run)


class TrainMetrics:
    """One of the trackers of a training (trackers.py), in worker 0."""

    def __init__(self, run: str, gpus: int) -> None:
        """`gpus`: of all workers together."""
        self._run, self._gpus = {"run": run}, gpus
        self._loss = Gauge("raystill_train_loss", "Loss by term.", ("run", "term"))
        self._tokens = Counter("raystill_train_tokens", "Tokens learnt.", ("run",))
        self._gpu = Counter("raystill_gpu_seconds", "GPUs held x seconds.", ("run", "stage"))
        self._losses: dict[str, float] = {}
        self._over = threading.Event()
        threading.Thread(target=self._keep_telling, daemon=True, name="train-metrics").start()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """What one step came to, or a measurement in between."""
        losses = {name: value for name, value in values.items() if name.removeprefix("validation/") in _LOSSES}
        self._losses = {**self._losses, **losses}
        del step
        self._tell()
        if "step_s" in values:
            self._tokens.inc(values["tokens_per_s"] * values["step_s"], self._run)
            if self._gpus:
                self._gpu.inc(values["step_s"] * self._gpus, {**self._run, "stage": "train"})

    def sync(self) -> None:
        """Ray exports them as they come."""

    def close(self, finished: bool) -> None:
        """The driver tells whether it has finished."""
        del finished
        self._over.set()

    def _keep_telling(self) -> None:
        # Ray forgets a gauge that it was not told for two of its intervals, 20 s; a step may take longer, and one that hangs is to be seen.
        while not self._over.wait(_EVERY_S):
            self._tell()

    def _tell(self) -> None:
        for term, value in self._losses.items():
            self._loss.set(value, {**self._run, "term": term})
