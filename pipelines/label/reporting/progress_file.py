"""The label stage as other processes see it: `labels/progress.json` with counts of its own, which the driver writes while it works.

    {..., "stage": "label", "unit": "rows", "done": 300, "total": 1000, "rows_per_s": 20.0, "resumed_at_rows": 100, "accepted": 290,
     "rejected_by_reason": {"unparsable": 10}, "tokens": {"prompt": 30000, "output": 9000},
     "engines": {"engines": 1, "busy_share": 0.97, "deaths": 0}}

The other keys are those of every stage (runtime/stage_progress.py). Files of 0.1 lack stage, unit, phase, per_second and detail.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Self

from pydantic import BaseModel, Field, model_validator

from pipelines.data.label_manifest import Tokens
from pipelines.label.output.commits import committed_counts
from pipelines.label.output.counts import Counts
from pipelines.runtime.progress_file import ProgressFile
from pipelines.runtime.stage_progress import StageName, StageProgress, is_alive, read_progress
from pipelines.storage.manifest import now
from pipelines.storage.process_identity import this_process
from pipelines.storage.store import Store

SCANNING = "scanning the corpus"
EngineProgress = dict[str, int | float | None]
"""`engines`, `busy_share` and `deaths`; empty if they are not known."""


class LabelProgress(StageProgress):
    """The content of the progress file. Counts cover all runs of the stage, and held-out rows except in `accepted` and rejects."""

    stage: StageName = "label"
    unit: str = "rows"
    resumed_at_rows: int = 0
    accepted: int = 0
    rejected_by_reason: dict[str, int] = Field(default_factory=dict)
    tokens: Tokens = Tokens()
    rows_per_s: float = 0.0
    """The same as `per_second`."""
    engines: EngineProgress = Field(default_factory=dict)

    @model_validator(mode="after")
    def _read_0_1(self) -> Self:
        """Fill in what files of 0.1 lack."""
        if "per_second" not in self.model_fields_set:
            self.per_second = self.rows_per_s
            self.phase = SCANNING if self.total is None else ""
        return self


class LabelProgressFile(ProgressFile):
    """The driver's side."""

    _progress: LabelProgress
    _engines: Callable[[], EngineProgress] = dict

    def _first(self, stage: StageName, unit: str) -> LabelProgress:
        return LabelProgress(**this_process(), started=now(), stage=stage, unit=unit, per_second=0.0)

    def begin(self, resumed_at_rows: int, engines: Callable[[], EngineProgress]) -> None:
        """The scan is over. `engines` is called before each write, by another thread."""
        self._progress.resumed_at_rows, self._engines = resumed_at_rows, engines

    def update(self, counts: Counts) -> None:
        """Set the counts of all rows with an outcome. Cheap: writes nothing."""
        with self._lock:
            progress = self._progress
            progress.accepted, progress.rejected_by_reason = counts.accepted, dict(counts.rejected)
            progress.tokens = Tokens(prompt=counts.prompt_tokens, output=counts.output_tokens)

    def _update(self) -> None:
        progress, engines = self._progress, self._engines()
        with self._lock:
            progress.engines, progress.rows_per_s = engines, progress.per_second


class InterruptedLabels(BaseModel):
    """What unfinished labels hold while no driver works on them."""

    rows: int
    """Rows that the next run does not send to the teacher again."""
    total: int | None
    """None before the end of the scan."""


def finished_rows(store: Store) -> int:
    """Rows of unfinished labels that the next run skips: as the running driver reports them, else as committed."""
    progress = read_progress(store, LabelProgress)
    return progress.done if progress and is_alive(progress, time.time()) else committed_rows(store).rows


def committed_rows(store: Store) -> InterruptedLabels:
    """The committed rows, without those to retry."""
    counts, total = committed_counts(store)
    return InterruptedLabels(rows=counts.done - counts.engine_errors, total=total)
