"""How far a training is, and its checkpoints in Ray Train's keeping: save and restore.

Ray Train commits a checkpoint when every worker has handed in its part, and knows of committed ones only. One that was damaged later
is recognised, and the one before it is used.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipelines.train.engine import checkpoints
from pipelines.train.engine.worker import Worker


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
    """Step, objective and terms of the best of them."""
    best_kept: list[int] = field(default_factory=list)
    """Steps whose weights are kept: the best, and what was the best at the checkpoints that may be gone on from."""
    best_at_saves: list[int] = field(default_factory=list)
    """The best step as of each of the last checkpoints."""
    started_at: list[int] = field(default_factory=list)
    """The steps at which an attempt began: [0], and the checkpoints that were gone on from."""
    world_sizes: list[int] = field(default_factory=list)
    """Workers of each attempt."""
    nodes: list[list[str]] = field(default_factory=list)
    """Of each attempt the workers' nodes, in the order of ranks."""
    waited_s: float = 0.0
    """Of `seconds`: for micro-batches."""
    damaged: list[str] = field(default_factory=list)
    """Checkpoints that could not be used, and why."""


class CheckpointSaver:
    """Hands checkpoints to Ray Train, which stores them while training goes on: one at a time, so that none pile up on a slow store."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._stored_from: Path | None = None

    def save(self, state: State) -> bool:
        """Save, unless the one before is still being stored. Whether it did; every worker calls it, and hears the same."""
        if self._is_busy():
            return False
        self._save(state)
        return True

    def _is_busy(self) -> bool:
        # Ray removes the folder when it has stored what is in it.
        here = self._stored_from is not None and self._stored_from.exists()
        return self._worker.any(here)

    def _save(self, state: State) -> None:
        from ray import train

        worker, folder = self._worker, Path(tempfile.mkdtemp(prefix="raystill-checkpoint-"))
        if state.best is not None:
            # One more than are kept: the oldest goes only when the new one is stored.
            kept = worker.run.training.keep_checkpoints + 1
            state.best_at_saves = [*state.best_at_saves, state.best["step"]][-kept:]
        checkpoints.save(worker.engine, asdict(state), folder, worker.rank, worker.world)
        self._stored_from = folder
        train.report(
            {"step": state.step},
            checkpoint=train.Checkpoint.from_directory(folder),
            checkpoint_upload_mode=train.CheckpointUploadMode.ASYNC,
        )


def restore(engine: Any, rank: int) -> State:
    """The state of the last whole checkpoint, loaded into the engine; a fresh one where there is none."""
    import torch
    from ray import train

    last = train.get_checkpoint()
    if last is None:
        return State()
    earlier = [reported.checkpoint for reported in reversed(train.get_all_reported_checkpoints())]
    damaged: list[str] = []
    for checkpoint in [last, *(found for found in earlier if found.path != last.path)]:
        with checkpoint.as_directory() as local:
            folder = Path(local)
            # Workers of one node share the folder: none looks into it while another still fetches.
            torch.distributed.barrier()
            reason = _from_first(checkpoints.problem(folder) if rank == 0 else None)
            if reason is None:
                state = State(**checkpoints.read_state(folder))
                checkpoints.load(engine, folder, state.step)
                state.damaged += damaged
                return state
        damaged.append(f"{Path(checkpoint.path).name}: {reason}")
    return State(damaged=damaged)


def _from_first(value: str | None) -> str | None:
    """Worker 0's value, on every worker."""
    import torch

    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]
