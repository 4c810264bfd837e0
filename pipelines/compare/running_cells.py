"""What the running cells do, for the line of the comparison: read from the progress files in their folders.

    t5-small finetune 0.25 seed 0 (step 12/300), t5-small finetune 1 seed 0 (starting workers)

A cell runs in a Ray task. Its training writes OUTPUT/compare/cells/NAME/student/progress.json, its scoring NAME/progress.json.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from pipelines.compare.scheduler import CellJob
from pipelines.errors import UserError
from pipelines.runtime.progress_file import EVERY_S, EVERY_S_ON_OBJECT_STORES
from pipelines.runtime.stage_progress import StageProgress, counted, read_progress
from pipelines.storage.store import Store


class RunningCells:
    """Reads the files as often as they are written."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._read_at: dict[str, float] = {}
        self._steps: dict[str, str] = {}
        """By the output of the cell."""

    def text(self, running: Sequence[CellJob]) -> str:
        """The titles of the cells, with their steps."""
        return ", ".join(f"{job.cell.title}{self._step(job.run.output)}" for job in running)

    def _step(self, output: str) -> str:
        store = Store(output)
        every_s = EVERY_S if store.is_local else EVERY_S_ON_OBJECT_STORES
        if self._clock() - self._read_at.get(output, float("-inf")) >= every_s:
            self._read_at[output] = self._clock()
            try:
                found = read_progress(store.child("student"), StageProgress) or read_progress(store, StageProgress)
            except UserError:
                return ""  # an unreachable store ends the cell, which reports it
            self._steps[output] = "" if found is None or found.ended else f" ({_step_of(found)})"
        return self._steps.get(output, "")


def _step_of(progress: StageProgress) -> str:
    if progress.phase:
        return progress.phase
    if progress.stage == "train":
        return progress.detail.partition(",")[0] or progress.stage  # `step 12/300, loss: label 0.412`
    return counted(progress.done, progress.total, progress.unit)
