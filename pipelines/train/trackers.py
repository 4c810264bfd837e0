"""Who is told of every step: TensorBoard files, always; MLflow and Weights & Biases where `training.trackers` names them.

Only worker 0 has one. Values keep their names: loss, label, rationale, gradient_norm, learning_rate, tokens_per_s, step_s; those of
the validation split begin with `validation/`. A tracker that fails is left out from there on, with a warning: no training ends for it.

    tensorboard --logdir OUTPUT/tensorboard
"""

from __future__ import annotations

import sys
import tempfile
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from pipelines.artifacts import Store
from pipelines.config import RunConfig

_PROJECT = "raystill"


class _Tracker(Protocol):
    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class Trackers:
    """All trackers of a training."""

    def __init__(self, run: RunConfig, name: str, store: Store, step: int, known: dict[str, str]) -> None:
        """Open them.

        Args:
            name: of this training, the same after a restart.
            store: where the TensorBoard files go.
            step: the last that counts. What a lost attempt has noted after it is passed over by TensorBoard.
            known: tracker -> its id of this training; kept with every checkpoint, and added to here.
        """
        self._trackers: dict[str, _Tracker] = {}
        self._open("tensorboard", lambda: _TensorBoard(store, step))
        for kind in run.training.trackers:
            opened = {"mlflow": _Mlflow, "wandb": _Wandb}[kind]
            self._open(kind, lambda opened=opened: opened(run, name, known))  # type: ignore[misc]

    def log(self, step: int, values: Mapping[str, float], prefix: str = "") -> None:
        """Tell all of the step's values."""
        named = {f"{prefix}{key}": value for key, value in values.items() if key != "step"}
        for kind in list(self._trackers):
            self._try(kind, lambda tracker: tracker.log(step, named))

    def close(self) -> None:
        """Write out what they hold back."""
        for kind in list(self._trackers):
            self._try(kind, lambda tracker: tracker.close())

    def _open(self, kind: str, make: Callable[[], _Tracker]) -> None:
        try:
            self._trackers[kind] = make()
        except Exception as error:  # noqa: BLE001
            _warn(kind, error)

    def _try(self, kind: str, call: Callable[[_Tracker], None]) -> None:
        try:
            call(self._trackers[kind])
        except Exception as error:  # noqa: BLE001
            # Each library raises what its transport does; none of it is worth a training.
            del self._trackers[kind]
            _warn(kind, error)


class _TensorBoard:
    """Event files, written where they stay; for an object store written here and put there at the end."""

    def __init__(self, store: Store, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._store = store
        self._folder = store.root if store.is_local else tempfile.mkdtemp(prefix="raystill-tensorboard-")
        self._writer = SummaryWriter(log_dir=self._folder, purge_step=step + 1 if step else None)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()
        if not self._store.is_local:
            self._store.put_folder(Path(self._folder))


class _Mlflow:
    """A run of MLflow's experiment `raystill`, on the server that MLFLOW_TRACKING_URI names."""

    def __init__(self, run: RunConfig, name: str, known: dict[str, str]) -> None:
        import mlflow

        self._mlflow = mlflow
        mlflow.set_experiment(_PROJECT)
        begun = known.get("mlflow")
        active = mlflow.start_run(run_id=begun, run_name=None if begun else f"{run.name}-{name}")
        if begun is None:
            known["mlflow"] = active.info.run_id
            mlflow.log_params(_flat(run))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        # Asynchronously: no step waits for a server.
        self._mlflow.log_metrics(dict(values), step=step, synchronous=False)

    def close(self) -> None:
        self._mlflow.flush_async_logging()
        self._mlflow.end_run()


class _Wandb:
    """A run of the project `raystill`; WANDB_MODE=offline writes it to a folder."""

    def __init__(self, run: RunConfig, name: str, known: dict[str, str]) -> None:
        import wandb

        known.setdefault("wandb", uuid.uuid4().hex[:8])
        self._run = wandb.init(
            project=_PROJECT, name=f"{run.name}-{name}", id=known["wandb"], resume="allow", config=_flat(run)
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish(quiet=True)


def _flat(run: RunConfig) -> dict[str, Any]:
    """The settings of student and training, by their keys in the run file."""
    found: dict[str, Any] = {"task": run.task}
    for section in ("student", "training"):
        for key, value in getattr(run, section).model_dump(mode="json").items():
            found[f"{section}.{key}"] = value
    return found


def _warn(kind: str, error: Exception) -> None:
    print(f"train: {kind} is left out from here on ({type(error).__name__}: {error})", file=sys.stderr, flush=True)
