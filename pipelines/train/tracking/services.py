"""Tracking services that `training.trackers` can name: MLflow and Weights & Biases. A further service is one more entry of SERVICES."""

from __future__ import annotations

import importlib.util
import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from pipelines.config import RunConfig, TrainingConfig
from pipelines.errors import UserError
from pipelines.train.tracking.tracker import Tracker

_PROJECT = "raystill"
_SEND_EVERY_S = 10.0
_FINISH_S = 60
_MAX_METRICS_PER_CALL = 1000


class Service(Tracker, Protocol):
    """A tracker that sends values to a service."""

    def __init__(self, run: RunConfig, name: str, run_ids: dict[str, str]) -> None:
        """Open or continue the service's run.

        Args:
            name: of the training.
            run_ids: ids of runs by service. A new run adds its own.
        """

    @staticmethod
    def missing_setting() -> tuple[str, str] | None:
        """(rule, remedy) if the environment lacks what the service needs."""


class Mlflow:
    """A run of MLflow's experiment `raystill`, on the server that MLFLOW_TRACKING_URI names. Sends many steps at a time."""

    def __init__(self, run: RunConfig, name: str, run_ids: dict[str, str]) -> None:
        # Give up on a lost server soon: all workers wait for this one.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        import mlflow
        from mlflow.entities import Metric, Param

        self._client, self._metric = mlflow.MlflowClient(), Metric
        self._buffer: list[Metric] = []
        self._sent_s = time.monotonic()
        if "mlflow" not in run_ids:
            experiment = mlflow.set_experiment(_PROJECT).experiment_id
            run_ids["mlflow"] = self._client.create_run(experiment, run_name=f"{run.name}-{name}").info.run_id
            settings = [Param(key, str(value)) for key, value in _settings(run).items()]
            self._client.log_batch(run_ids["mlflow"], params=settings)
        self._id = run_ids["mlflow"]

    @staticmethod
    def missing_setting() -> tuple[str, str] | None:
        if os.environ.get("MLFLOW_TRACKING_URI"):
            return None
        remedy = "Set it to the server's address or a folder (file:///...), here and on the workers, or remove mlflow."
        return "the environment has no MLFLOW_TRACKING_URI", remedy

    def log(self, step: int, values: Mapping[str, float]) -> None:
        now_ms = int(time.time() * 1000)
        self._buffer += [self._metric(name, value, now_ms, step) for name, value in values.items()]
        if time.monotonic() - self._sent_s >= _SEND_EVERY_S:
            self.sync()

    def sync(self) -> None:
        for start in range(0, len(self._buffer), _MAX_METRICS_PER_CALL):
            self._client.log_batch(self._id, metrics=self._buffer[start : start + _MAX_METRICS_PER_CALL])
        self._buffer, self._sent_s = [], time.monotonic()

    def close(self, finished: bool) -> None:
        self.sync()
        self._client.set_terminated(self._id, status="FINISHED" if finished else "FAILED")


class Wandb:
    """A run of the project `raystill` at Weights & Biases. WANDB_MODE=offline writes it to a folder."""

    def __init__(self, run: RunConfig, name: str, run_ids: dict[str, str]) -> None:
        import wandb

        run_id = run_ids.setdefault("wandb", uuid.uuid4().hex[:8])
        self._run = wandb.init(
            project=_PROJECT, name=f"{run.name}-{name}", id=run_id, resume="allow", config=_settings(run),
            settings=wandb.Settings(finish_timeout=_FINISH_S),
        )  # fmt: skip

    @staticmethod
    def missing_setting() -> tuple[str, str] | None:
        netrc = Path("~/.netrc").expanduser()
        logged_in = netrc.is_file() and "wandb" in netrc.read_text(encoding="utf-8", errors="replace")
        needs_no_key = os.environ.get("WANDB_MODE") in ("offline", "disabled")
        if os.environ.get("WANDB_API_KEY") or needs_no_key or logged_in:
            return None
        remedy = (
            "Log in (wandb login), set WANDB_API_KEY, or WANDB_MODE=offline, here and on the workers, or remove wandb."
        )
        return "there is no key of Weights & Biases", remedy

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def sync(self) -> None:
        """A process of wandb's own sends values at once."""

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


SERVICES: dict[str, type[Service]] = {"mlflow": Mlflow, "wandb": Wandb}
"""By name of the service and of its package."""


def check_trackers(training: TrainingConfig) -> None:
    """Raise UserError for a service whose package or settings are missing here."""
    for name in training.trackers:
        if importlib.util.find_spec(name) is None:
            remedy = f"Install it here and on the workers (pip install 'raystill[{name}]'), or remove it."
            raise UserError(f"training.trackers {name}", "its package is not installed", remedy)
        if missing := SERVICES[name].missing_setting():
            raise UserError(f"training.trackers {name}", *missing)


def _settings(run: RunConfig) -> dict[str, object]:
    """The settings of student and training, by their keys in the run file."""
    settings: dict[str, object] = {"task": run.task}
    for section in ("student", "training"):
        for key, value in getattr(run, section).model_dump(mode="json").items():
            settings[f"{section}.{key}"] = value
    return settings
