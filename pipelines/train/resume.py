"""How far a training is, and its checkpoints in Ray Train's keeping: save, restore, and the best one again.

Ray Train commits a checkpoint when every worker has handed in its part, and knows of committed ones only. One that was damaged later
is recognised, and the one before it is used.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipelines.errors import StageFailedError
from pipelines.train import checkpoints
from pipelines.train.worker import Worker

_POLL_S = 0.05


@dataclass
class State:
    """How far the training is. Saved with every checkpoint."""

    step: int = 0
    seconds: float = 0.0
    """Time spent in steps, over all attempts."""
    history: list[dict[str, float]] = field(default_factory=list)
    validation_before: dict[str, float] | None = None
    validation: list[dict[str, float]] = field(default_factory=list)
    """Measured in between: step, objective and terms."""
    best: dict[str, Any] | None = None
    """Step and objective of the best of them."""
    started_at: list[int] = field(default_factory=list)
    """The steps at which an attempt began: [0], and the checkpoints that were gone on from."""
    world_sizes: list[int] = field(default_factory=list)
    """Workers of each attempt."""
    damaged: list[str] = field(default_factory=list)
    """Checkpoints that could not be used, and why."""


class Keeper:
    """Hands checkpoints to Ray Train, which stores them while training goes on: one at a time, so that none pile up on a slow store."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._stored_from: Path | None = None

    def save(self, state: State, *, wait: bool) -> bool:
        """Save, unless the one before is still being stored: wait for it, or save nothing. Every worker calls it, and hears the same."""
        while self._is_busy():
            if not wait:
                return False
            time.sleep(_POLL_S)
        self._save(state)
        return True

    def _is_busy(self) -> bool:
        # Ray removes the folder when it has stored what is in it.
        here = self._stored_from is not None and self._stored_from.exists()
        return self._worker.any(here)

    def _save(self, state: State) -> None:
        from ray import train
        from ray.train.v2.api.report_config import CheckpointUploadMode

        worker, folder = self._worker, Path(tempfile.mkdtemp(prefix="raystill-checkpoint-"))
        checkpoints.save(worker.engine, asdict(state), folder, worker.rank, worker.world)
        metrics: dict[str, Any] = {"step": state.step}
        if state.best is not None and state.best["step"] == state.step:
            metrics["objective"] = state.best["objective"]
        self._stored_from = folder
        train.report(
            metrics,
            checkpoint=train.Checkpoint.from_directory(folder),
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
        )


def restore(engine: Any, rank: int) -> State:
    """The state of the last whole checkpoint, loaded into the engine; a fresh one where there is none."""
    from ray import train

    last = train.get_checkpoint()
    if last is None:
        return State()
    earlier = [reported.checkpoint for reported in reversed(train.get_all_reported_checkpoints())]
    damaged: list[str] = []
    for checkpoint in [last, *(found for found in earlier if found.path != last.path)]:
        with checkpoint.as_directory() as local:
            folder = Path(local)
            reason = _from_first(checkpoints.problem(folder) if rank == 0 else None)
            if reason is None:
                state = State(**checkpoints.read_state(folder))
                checkpoints.load(engine, folder, state.step)
                state.damaged += damaged
                return state
        damaged.append(f"{Path(checkpoint.path).name}: {reason}")
    return State(damaged=damaged)


def load_step(engine: Any, rank: int, step: int) -> None:
    """Load the checkpoint of a step that was reported. Every worker calls it.

    Raises:
        StageFailedError: it is gone, or damaged.
    """
    from ray import train

    for reported in train.get_all_reported_checkpoints():
        if reported.metrics.get("step") == step:
            with reported.checkpoint.as_directory() as local:
                reason = _from_first(checkpoints.problem(Path(local)) if rank == 0 else None)
                if reason is None:
                    checkpoints.load(engine, Path(local), step)
                    return
            raise StageFailedError(f"the best checkpoint, of step {step}, cannot be read: {reason}")
    raise StageFailedError(f"the best checkpoint, of step {step}, is gone")


def _from_first(value: str | None) -> str | None:
    """Worker 0's value, on every worker."""
    import torch

    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]
