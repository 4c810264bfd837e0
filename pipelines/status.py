"""What a run's folder holds of each stage: read from OUTPUT alone, on any filesystem, without the corpus and without Ray.

`RunStatus` is what `raystill status --json` prints.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from pipelines.config import RunConfig
from pipelines.label.reporting.progress_file import InterruptedLabels, LabelProgress, label_status
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


class Running(LabelProgress):
    """A driver labels now."""

    state: Literal["running"] = "running"


class Interrupted(InterruptedLabels):
    """Labelling has begun, and no driver works on it."""

    state: Literal["interrupted"] = "interrupted"


class Cells(_Part):
    """Cells of a comparison."""

    done: int
    missing: int


class Begun(_Part):
    """Unfinished work exists. Whether a process works on it is unknown: only labelling reports that."""

    state: Literal["begun"] = "begun"


class GridBegun(Begun):
    """A comparison that has written a first report."""

    cells: Cells


class NotBegun(_Part):
    """Nothing exists."""

    state: Literal["not begun"] = "not begun"


StageState = Finished | Running | Interrupted | GridBegun | Begun | NotBegun
StageName = Literal["label", "train", "evaluate", "compare"]
_LABEL_STATES: dict[str, type[Finished | Running | Interrupted | NotBegun]] = {
    "finished": Finished,
    "running": Running,
    "interrupted": Interrupted,
    "not begun": NotBegun,
}


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
        "train": _finished(output, "student") or (Begun() if output.files("training") else NotBegun()),
        "evaluate": _finished(output, "report") or NotBegun(),
    }
    if output.exists("compare"):
        stages["compare"] = _finished(output, "comparison", "compare") or _grid(output.child("compare"))
    return RunStatus(run=run.name, output=output.shown(), stages=stages)


def _labels(store: Store) -> StageState:
    found = label_status(store)
    return _LABEL_STATES[found.state].model_validate(found.detail.model_dump() if found.detail else {})


def _finished(output: Store, kind: ArtifactType, folder: str = "") -> Finished | None:
    manifest = read_manifest(output.child(folder or kind), kind)
    if manifest is None:
        return None
    return Finished(created=manifest.created, fingerprint=manifest.fingerprint, counts=manifest.counts)


def _grid(store: Store) -> Begun:
    if not store.exists("report.json"):  # the search comes first
        return Begun()
    report = json.loads(store.read("report.json"))
    done = sum(len(group["cells"]) for group in report["groups"])
    return GridBegun(cells=Cells(done=done, missing=len(report["missing"])))
