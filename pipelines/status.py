"""What a run's folder holds of each stage: read from OUTPUT alone, on any filesystem, without the corpus and without Ray.

`RunStatus` is what `raystill status --json` prints.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from pipelines.config import RunConfig
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


class Running(_Part):
    """A driver labels now. The content of its progress file (pipelines/label/reporting/progress_file.py)."""

    state: Literal["running"] = "running"
    format: int
    host: str
    pid: int
    processes: str
    process: int | None
    started: str
    ended: bool
    resumed_at_rows: int
    done: int
    total: int | None
    """None while the corpus is scanned."""
    accepted: int
    rejected_by_reason: dict[str, int]
    tokens: dict[Literal["prompt", "output"], int]
    rows_per_s: float
    seconds_left: float | None
    updated_s: float
    """Seconds since 1970."""
    engines: dict[str, Any]


class Interrupted(_Part):
    """Labelling has begun, and no driver works on it."""

    state: Literal["interrupted"] = "interrupted"
    rows: int
    """Finished; `label` does not ask for them again."""
    total: int | None


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
_LABELS: TypeAdapter[Finished | Running | Interrupted | NotBegun] = TypeAdapter(
    Annotated[Finished | Running | Interrupted | NotBegun, Field(discriminator="state")]
)


class RunStatus(_Part):
    """The state of each stage."""

    run: str
    output: str
    stages: dict[Literal["label", "train", "evaluate", "compare"], StageState]
    """`compare` only once it has begun."""


def run_status(run: RunConfig) -> RunStatus:
    """Read the state of each stage.

    Raises:
        UserError: a manifest is damaged, or of another type or schema version.
    """
    from pipelines.label.reporting.progress_file import label_status

    output = Store(run.output)
    label = label_status(output.child("labels"))
    detail = label.detail.model_dump() if isinstance(label.detail, BaseModel) else (label.detail or {})
    stages: dict[Literal["label", "train", "evaluate", "compare"], StageState] = {
        "label": _LABELS.validate_python({"state": label.state, **detail}),
        "train": _finished(output, "student") or (Begun() if output.files("training") else NotBegun()),
        "evaluate": _finished(output, "report") or NotBegun(),
    }
    if output.exists("compare"):
        stages["compare"] = _finished(output, "comparison", "compare") or _grid(output.child("compare"))
    return RunStatus(run=run.name, output=output.shown(), stages=stages)


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
