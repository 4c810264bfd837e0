"""What a run's folder holds of each stage: read from OUTPUT alone, on any filesystem, without the corpus and without Ray.

`RunStatus` is what `raystill status --json` prints.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from pipelines.config import RunConfig
from pipelines.data.label_manifest import LabelCounts
from pipelines.label.output.commits import ATTEMPT
from pipelines.label.reporting.progress_file import InterruptedLabels, LabelProgress, committed_rows
from pipelines.runtime.stage_progress import StageName, StageProgress, is_alive, read_progress
from pipelines.storage.manifest import ArtifactType, read_manifest
from pipelines.storage.store import Store


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Finished(_Part):
    """The manifest exists."""

    state: Literal["finished"] = "finished"
    created: str
    fingerprint: str
    counts: dict[str, Any]


class Running(StageProgress):
    """A driver works on the stage now."""

    state: Literal["running"] = "running"


class Labelling(LabelProgress):
    """A driver labels now."""

    state: Literal["running"] = "running"


class Interrupted(_Part):
    """A driver has worked on the stage, and ended without its artifact. Fields as in StageProgress."""

    state: Literal["interrupted"] = "interrupted"
    unit: str
    done: int
    total: int | None
    phase: str
    detail: str
    updated_s: float


class LabellingInterrupted(InterruptedLabels):
    """Labelling has begun, and no driver works on it."""

    state: Literal["interrupted"] = "interrupted"


class Cells(_Part):
    """Cells of a comparison."""

    done: int
    missing: int


class Begun(_Part):
    """Unfinished work exists, without a progress file: Raystill 0.1 made it, or a kill came before the first write."""

    state: Literal["begun"] = "begun"


class GridBegun(Begun):
    """A comparison that has written a first report."""

    cells: Cells


class NotBegun(_Part):
    """Nothing exists."""

    state: Literal["not begun"] = "not begun"


StageState = Finished | Labelling | Running | LabellingInterrupted | Interrupted | GridBegun | Begun | NotBegun


class RunStatus(_Part):
    """The state of each stage."""

    run: str
    output: str
    stages: dict[StageName, StageState]
    """`compare` only once it has begun."""


def run_status(run: RunConfig) -> RunStatus:
    """Read the state of each stage.

    Raises:
        UserError: a manifest is damaged, or of another type or schema version.
    """
    output = Store(run.output)
    stages: dict[StageName, StageState] = {
        "label": _labels(output.child("labels")),
        "train": _stage(
            output.child("student"), "student", lambda: Begun() if output.files("training") else NotBegun()
        ),
        "evaluate": _stage(output.child("report"), "report", NotBegun),
    }
    if output.exists("compare"):
        grid = output.child("compare")
        stages["compare"] = _stage(grid, "comparison", lambda: _grid(grid))
    return RunStatus(run=run.name, output=output.shown(), stages=stages)


def _labels(store: Store) -> StageState:
    progress = read_progress(store, LabelProgress)
    if progress and is_alive(progress, time.time()):
        # Perhaps beside a manifest: `engine_error` rows of finished labels are retried.
        return Labelling.model_validate(progress.model_dump())
    manifest = read_manifest(store, "labels")
    if manifest is not None:
        counts = LabelCounts.model_validate(manifest.counts).model_dump()  # manifests of 0.1 lack some
        return Finished(created=manifest.created, fingerprint=manifest.fingerprint, counts=counts)
    if progress is None and not store.exists(ATTEMPT):
        return NotBegun()
    return LabellingInterrupted(**committed_rows(store).model_dump())


def _stage(store: Store, kind: ArtifactType, without_file: Callable[[], StageState]) -> StageState:
    """The state of a stage. `without_file`: finds it if there is neither a progress file nor a manifest."""
    # The file first: a driver removes it after it has written the manifest.
    progress = read_progress(store, StageProgress)
    if progress and is_alive(progress, time.time()):
        return Running.model_validate(progress.model_dump())
    manifest = read_manifest(store, kind)
    if manifest is not None:
        return Finished(created=manifest.created, fingerprint=manifest.fingerprint, counts=manifest.counts)
    if progress is None:
        return without_file()
    return Interrupted.model_validate(progress.model_dump(include=set(Interrupted.model_fields) - {"state"}))


def _grid(store: Store) -> Begun:
    if not store.exists("report.json"):  # the search comes first
        return Begun()
    try:
        report = json.loads(store.read("report.json"))
        cells = Cells(done=sum(len(group["cells"]) for group in report["groups"]), missing=len(report["missing"]))
    except (ValueError, KeyError, TypeError):  # damaged, or of another format: the next comparison writes it again
        return Begun()
    return GridBegun(cells=cells)
