"""Trackers receive the values of every step: always TensorBoard files and Prometheus, and those that `training.trackers` names.

Only worker 0 has trackers. Names of values: loss, label, rationale, gradient_norm, learning_rate, tokens_per_s, step_s; those of the
validation split start with `validation/`. A tracker that fails is dropped with a warning; it never ends the training.

    tensorboard --logdir OUTPUT/tensorboard
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import partial

from pipelines.storage.store import Store
from pipelines.train.engine.job import TrainingJob
from pipelines.train.tracking.services import SERVICES
from pipelines.train.tracking.tracker import Tracker

_RUN_IDS = "trackers.json"


class Trackers:
    """All trackers of a training."""

    def __init__(self, job: TrainingJob, step: int, *, workers: int, warn: Callable[[str], None]) -> None:
        """Open them. The ids of runs at services are kept in the work folder, so that a restart continues these runs.

        Args:
            step: the last one that counts. TensorBoard hides what a lost attempt recorded after it.
            workers: number of them.
            warn: shows a warning to the user.
        """
        from pipelines.train.tracking.prometheus import TrainMetrics

        self._trackers: dict[str, Tracker] = {}
        self._warn = warn
        training, work = job.run.training, job.work
        self._open("tensorboard", lambda: _TensorBoard(Store(job.tensorboard), step))
        self._open("metrics", lambda: TrainMetrics(job.run.name, workers * training.gpus_per_worker))
        run_ids = dict(json.loads(work.read(_RUN_IDS))) if work.exists(_RUN_IDS) else {}
        for name in training.trackers:
            self._open(name, partial(SERVICES[name], job.run, job.name, run_ids))
        if run_ids:
            work.write(_RUN_IDS, json.dumps(run_ids).encode())

    def log(self, step: int, values: Mapping[str, float], prefix: str = "") -> None:
        """Send the values of a step to all."""
        named = {f"{prefix}{key}": value for key, value in values.items() if key != "step"}
        self._each(lambda tracker: tracker.log(step, named))

    def sync(self) -> None:
        """See `Tracker.sync`."""
        self._each(lambda tracker: tracker.sync())

    def close(self, *, finished: bool) -> None:
        """See `Tracker.close`."""
        self._each(lambda tracker: tracker.close(finished))

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name in list(self._trackers):
            try:
                call(self._trackers[name])
            except Exception as error:  # noqa: BLE001
                # Libraries raise whatever their transport raises. None of it is worth a training.
                del self._trackers[name]
                self._dropped(name, error)

    def _open(self, name: str, make: Callable[[], Tracker]) -> None:
        try:
            self._trackers[name] = make()
        except Exception as error:  # noqa: BLE001
            self._dropped(name, error)

    def _dropped(self, name: str, error: Exception) -> None:
        self._warn(f"{name} is left out from here on ({type(error).__name__}: {error})")


class _TensorBoard:
    """Event files. For an object store they are written to a local folder, and uploaded at each checkpoint."""

    def __init__(self, store: Store, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._store = store
        self._folder = store.root if store.is_local else tempfile.mkdtemp(prefix="raystill-tensorboard-")
        self._writer = SummaryWriter(log_dir=self._folder, purge_step=step + 1)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def sync(self) -> None:
        self._writer.flush()
        if not self._store.is_local:
            self._store.put_folder(self._folder)

    def close(self, finished: bool) -> None:
        self._writer.close()
        if not self._store.is_local:
            self._store.put_folder(self._folder)
            shutil.rmtree(self._folder)
