"""Who is told of every step: TensorBoard files and Prometheus (metrics.py), always; MLflow and Weights & Biases where `training.trackers`
names them.

Only worker 0 has one. Values keep their names: loss, label, rationale, gradient_norm, learning_rate, tokens_per_s, step_s; those of
the validation split begin with `validation/`. A tracker that fails is left out from there on, with a warning: no training ends for it.

    tensorboard --logdir OUTPUT/tensorboard
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from pipelines.config import RunConfig
from pipelines.storage.store import Store

_PROJECT = "raystill"
_IDS = "trackers.json"
_SEND_EVERY_S = 10.0
_FINISH_S = 60


class _Tracker(Protocol):
    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def sync(self) -> None: ...

    def close(self, finished: bool) -> None: ...


class Trackers:
    """All trackers of a training."""

    def __init__(
        self, run: RunConfig, name: str, store: Store, work: Store, step: int, *, workers: int,
        warn: Callable[[str], None],
    ) -> None:  # fmt: skip
        """Open them.

        Args:
            name: of this training, the same after a restart.
            store: where the TensorBoard files go.
            work: where the ids of this training at the other trackers are kept, so that a restart goes on with them.
            step: the last that counts. What a lost attempt has noted after it is passed over by TensorBoard.
            workers: that train together now.
            warn: says what the user should know.
        """
        from pipelines.train.tracking.prometheus import TrainMetrics

        self._trackers: dict[str, _Tracker] = {}
        self._warn = warn
        self._open("tensorboard", lambda: _TensorBoard(store, step))
        self._open("metrics", lambda: TrainMetrics(run.name, workers * run.training.gpus_per_worker))
        known = dict(json.loads(work.read(_IDS))) if work.exists(_IDS) else {}
        if "mlflow" in run.training.trackers:
            self._open("mlflow", lambda: _Mlflow(run, name, known))
        if "wandb" in run.training.trackers:
            self._open("wandb", lambda: _Wandb(run, name, known))
        if known:
            work.write(_IDS, json.dumps(known).encode())

    def log(self, step: int, values: Mapping[str, float], prefix: str = "") -> None:
        """Tell all of the step's values."""
        named = {f"{prefix}{key}": value for key, value in values.items() if key != "step"}
        self._each(lambda tracker: tracker.log(step, named))

    def sync(self) -> None:
        """Write out what they hold back: a killed worker loses no more than what came after."""
        self._each(lambda tracker: tracker.sync())

    def close(self, *, finished: bool) -> None:
        """Write out what they hold back, and end. `finished`: whether the training came to its end."""
        self._each(lambda tracker: tracker.close(finished))

    def _each(self, call: Callable[[_Tracker], None]) -> None:
        for kind in list(self._trackers):
            try:
                call(self._trackers[kind])
            except Exception as error:  # noqa: BLE001
                # Each library raises what its transport does; none of it is worth a training.
                del self._trackers[kind]
                self._left_out(kind, error)

    def _open(self, kind: str, make: Callable[[], _Tracker]) -> None:
        try:
            self._trackers[kind] = make()
        except Exception as error:  # noqa: BLE001
            self._left_out(kind, error)

    def _left_out(self, kind: str, error: Exception) -> None:
        self._warn(f"{kind} is left out from here on ({type(error).__name__}: {error})")


class _TensorBoard:
    """Event files, written where they stay; for an object store written here, and put there at each checkpoint."""

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


class _Mlflow:
    """A run of MLflow's experiment `raystill`, on the server that MLFLOW_TRACKING_URI names. Told of many steps at a time."""

    def __init__(self, run: RunConfig, name: str, known: dict[str, str]) -> None:
        # A server that is gone is given up soon: until then all workers wait for this one.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        import mlflow
        from mlflow.entities import Metric, Param

        self._client, self._metric = mlflow.MlflowClient(), Metric
        self._waiting: list[Any] = []
        self._sent_s = time.monotonic()
        if "mlflow" not in known:
            experiment = mlflow.set_experiment(_PROJECT).experiment_id
            known["mlflow"] = self._client.create_run(experiment, run_name=f"{run.name}-{name}").info.run_id
            settings = [Param(key, str(value)) for key, value in _flat(run).items()]
            self._client.log_batch(known["mlflow"], params=settings)
        self._id = known["mlflow"]

    def log(self, step: int, values: Mapping[str, float]) -> None:
        now_ms = int(time.time() * 1000)
        self._waiting += [self._metric(name, value, now_ms, step) for name, value in values.items()]
        if time.monotonic() - self._sent_s >= _SEND_EVERY_S:
            self.sync()

    def sync(self) -> None:
        for start in range(0, len(self._waiting), 1000):  # the most that a call may hold
            self._client.log_batch(self._id, metrics=self._waiting[start : start + 1000])
        self._waiting, self._sent_s = [], time.monotonic()

    def close(self, finished: bool) -> None:
        self.sync()
        self._client.set_terminated(self._id, status="FINISHED" if finished else "FAILED")


class _Wandb:
    """A run of the project `raystill`; WANDB_MODE=offline writes it to a folder."""

    def __init__(self, run: RunConfig, name: str, known: dict[str, str]) -> None:
        import wandb

        identity = known.setdefault("wandb", uuid.uuid4().hex[:8])
        self._run = wandb.init(
            project=_PROJECT, name=f"{run.name}-{name}", id=identity, resume="allow", config=_flat(run),
            settings=wandb.Settings(finish_timeout=_FINISH_S),
        )  # fmt: skip

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def sync(self) -> None:
        """A process of its own writes them as they come."""

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


def _flat(run: RunConfig) -> dict[str, Any]:
    """The settings of student and training, by their keys in the run file."""
    found: dict[str, Any] = {"task": run.task}
    for section in ("student", "training"):
        for key, value in getattr(run, section).model_dump(mode="json").items():
            found[f"{section}.{key}"] = value
    return found
