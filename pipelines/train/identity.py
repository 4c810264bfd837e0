"""What decides a student. Its fingerprint is the artifact's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipelines.config import RunConfig, TrainingConfig
from pipelines.data.heldout import validation_identity
from pipelines.storage.fingerprint import model_fingerprint
from pipelines.storage.manifest import Manifest
from pipelines.tasks import Task
from pipelines.train.data.sequences import TokenSettings

FORMAT = 3
"""Raised when this stage makes another student from the same input. 3: a student's own tokenizer learns from the training rows only."""
BATCH_PLAN = 2
"""Raised when the same seed gives other steps (`data/batch_plan.py`). 1 is that of 0.1: a step has examples of similar lengths."""

_EXECUTION_SETTINGS = {
    "workers",
    "min_workers",
    "gpus_per_worker",
    "placement",
    "zero_stage",
    "tokens_per_micro_batch",
    "offload",
    "activation_checkpointing",
    "max_failures",
    "checkpoint_every_steps",
    "checkpoint_every_minutes",
    "keep_checkpoints",
    "max_loss_spike",
    "compile",
    "trackers",
}
"""Settings of `training` that change how a student is computed, not which."""


def with_absolute_model(run: RunConfig) -> RunConfig:
    """The run with the absolute path of its model's folder, because workers have another working directory."""
    path = Path(run.student.model).expanduser()
    if not path.is_dir():
        return run
    return run.model_copy(update={"student": run.student.model_copy(update={"model": str(path.absolute())})})


def train_identity(run: RunConfig, task: Task, labels: Manifest) -> dict[str, Any]:
    """What decides the student of a run and its labels, as JSON."""
    return {
        "batch_plan": BATCH_PLAN,
        "format": FORMAT,
        "task": {"name": task.name, "version": task.version},
        "student": {**run.student.effective(), "model": model_fingerprint(run.student.model)},
        "training": deciding_settings(run.training),
        "corpus": {"validation": validation_identity(run.corpus)},
        "labels": {"fingerprint": labels.fingerprint, "content": labels.details.get("content")},
    }


def tokens_identity(identity: Mapping[str, Any], settings: TokenSettings) -> dict[str, Any]:
    """What decides the token table of a training with this identity, as JSON. Methods, fractions and some seeds differ in it."""
    chooses = settings.fraction < 1.0 or settings.rationale_share < 1.0
    kept = {**asdict(settings), "model": identity["student"]["model"], "seed": settings.seed if chooses else None}
    return {"settings": kept, **{name: identity[name] for name in ("format", "task", "corpus", "labels")}}


def identity_in_0_1(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The identity of the student that 0.1 makes of the same run: by batch plan 1, which it does not record."""
    training = {key: value for key, value in identity["training"].items() if key != "choose_by"}
    return {key: value for key, value in identity.items() if key != "batch_plan"} | {"training": training}


def deciding_settings(training: TrainingConfig) -> dict[str, object]:
    """The settings of the run file's `training` that decide which student it makes, with `steps` or `epochs`."""
    settings = training.model_dump(exclude=_EXECUTION_SETTINGS)
    settings.pop("steps" if training.steps is None else "epochs")
    if training.validate_every_steps is None:
        settings.pop("choose_by")
    return settings
