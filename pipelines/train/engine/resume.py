"""The progress of a training, and its checkpoints in Ray Train's storage: save and restore.

Ray Train commits a checkpoint when every worker has reported its part, and lists committed ones only. If the last one was damaged later,
the previous one is used.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from pipelines.students.details import BestStep, Losses
from pipelines.train.engine import checkpoints
from pipelines.train.engine.worker import Worker


class TrainingState(BaseModel):
    """The progress of a training. Saved with every checkpoint."""

    step: int = 0
    """The next one; so many are done."""
    seconds: float = 0.0
    """Time of the steps, over all attempts."""
    history: list[Losses] = []
    validation_before: Losses | None = None
    validation: list[Losses] = []
    """Measured in between: `step`, `objective` and terms."""
    best: BestStep | None = None
    best_kept: list[int] = []
    """Steps whose weights are stored: the best now, and the best at each checkpoint that training may resume from."""
    best_at_saves: list[int] = []
    """The best step at each of the last checkpoints."""
    started_at: list[int] = []
    """The first step of each attempt: 0, or that of the checkpoint that it resumed from."""
    world_sizes: list[int] = []
    """Workers of each attempt."""
    nodes: list[list[str]] = []
    """For each attempt, the node of each rank."""
    waited_s: float = 0.0
    """Part of `seconds` that was spent waiting for micro-batches."""
    best_difference: Annotated[float | None, Field(exclude_if=lambda value: value is None)] = None
    """How much a logit of the stored best weights differs from the trained one's. States of 0.1 lack it."""
    damaged: list[str] = []
    """Checkpoints that were skipped, with the reason."""


_MOST_SAVING = 1 / 20
"""Share of the time that checkpoints by time may take: those of a large model take minutes."""


class CheckpointSaver:
    """Reports checkpoints to Ray Train, which uploads them while training continues.

    Only one upload runs at a time, so that checkpoints do not pile up before a slow store.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker, self._training = worker, worker.run.training
        self._uploading: Path | None = None
        self._saved_s = time.monotonic()
        self._saving_s = 0.0
        self._due = False

    def save_if_due(self, state: TrainingState) -> bool:
        """Save by the run's intervals, unless the previous checkpoint is still being uploaded; then after one of the next steps.

        Every worker must call it after every step. Returns the same on all: whether it saved.
        """
        overdue = self._training.checkpoint_every_minutes is not None and self._worker.any(self._is_overdue())
        self._due = self._due or overdue or state.step % self._training.checkpoint_every_steps == 0
        if not self._due or state.step >= self._worker.plan.steps or self._is_uploading():
            return False
        began = time.monotonic()
        self._save(state)
        self._due, self._saved_s = False, time.monotonic()
        self._saving_s = self._saved_s - began
        return True

    def _is_overdue(self) -> bool:
        """By this worker's clock. The clocks differ, so that every worker takes the first one's word."""
        minutes = self._training.checkpoint_every_minutes or 0.0
        return time.monotonic() - self._saved_s >= max(60 * minutes, self._saving_s / _MOST_SAVING)

    def _is_uploading(self) -> bool:
        # Ray removes the folder after its upload.
        return self._worker.any(self._uploading is not None and self._uploading.exists())

    def _save(self, state: TrainingState) -> None:
        from ray import train

        worker, folder = self._worker, Path(tempfile.mkdtemp(prefix="raystill-checkpoint-"))
        if state.best is not None:
            # One more than are kept: Ray removes the oldest only when the new one is uploaded.
            state.best_at_saves = [*state.best_at_saves, state.best.step][-self._training.keep_checkpoints - 1 :]
        checkpoints.save(worker.engine, state.model_dump(), folder, worker.rank, worker.world)
        self._uploading = folder
        train.report(
            {"step": state.step},
            checkpoint=train.Checkpoint.from_directory(folder),
            checkpoint_upload_mode=train.CheckpointUploadMode.ASYNC,
            delete_local_checkpoint_after_upload=True,
        )


def restore(worker: Worker) -> TrainingState:
    """Load the last whole checkpoint into the worker's engine. Returns its state; a new one if there is no checkpoint."""
    import torch
    from ray import train

    last = train.get_checkpoint()
    if last is None:
        return TrainingState()
    earlier = [reported.checkpoint for reported in reversed(train.get_all_reported_checkpoints())]
    damaged: list[str] = []
    for checkpoint in [last, *(found for found in earlier if found.path != last.path)]:
        with checkpoint.as_directory() as local:
            folder = Path(local)
            # Workers of one node share the folder: wait until the last of them has fetched it.
            torch.distributed.barrier()
            damage = worker.gather(checkpoints.find_damage(folder) if worker.rank == 0 else None)[0]
            if damage is None:
                state = TrainingState.model_validate(checkpoints.read_state(folder))
                checkpoints.load(worker.engine, folder, state.step)
                state.damaged += damaged
                return state
        damaged.append(f"{Path(checkpoint.path).name}: {damage}")
    return TrainingState(damaged=damaged)
