"""A stage as other processes see it: `progress.json` beside the artifact that a driver makes, and its readers.

    labels/progress.json    student/progress.json    report/progress.json    compare/progress.json

    {"format": 1, "host": "node-7", "pid": 4711, "processes": "<boot> pid:[4026531836]", "process": 88123,
     "started": "2026-01-01T12:00:00+00:00", "ended": false, "stage": "train", "unit": "tokens", "phase": "", "phase_s": 0.0,
     "done": 300, "total": 1000, "per_second": 20.0, "seconds_left": 35.0, "detail": "step 3/10, loss: label 0.412",
     "updated_s": 1767268800.5}

The file is a sign of life and decides nothing: the manifest says whether the artifact is finished. The driver removes the file when the
manifest exists (progress_file.py). A killed driver leaves it behind; its process is then gone, or the file is older than 30 seconds.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from pipelines.runtime.durations import duration
from pipelines.storage.manifest import with_zone
from pipelines.storage.process_identity import is_running
from pipelines.storage.store import PROGRESS, Store

FRESH_S = 30.0
StageName = Literal["label", "train", "evaluate", "compare"]


class StageProgress(BaseModel):
    """The content of a progress file."""

    model_config = ConfigDict(allow_inf_nan=False)

    format: Literal[1] = 1
    host: str
    """This and the next three: the driver (storage/process_identity.py)."""
    pid: int
    processes: str
    process: int | None
    started: Annotated[str, AfterValidator(with_zone)]
    """ISO 8601 with a zone."""
    ended: bool = False
    """The driver has ended with an error."""
    stage: StageName
    unit: str
    """What `done` and `total` count: rows, tokens, examples, cells."""
    phase: str = ""
    """What the stage does while it does not count units, such as `starting engine`. Empty while it counts."""
    phase_s: float = 0.0
    """Seconds since the phase began."""
    done: int = 0
    total: int | None = None
    """None if it is not known yet."""
    per_second: float = 0.0
    """Units per second over the last minute."""
    seconds_left: float | None = None
    detail: str = ""
    """The end of the terminal's line."""
    updated_s: float = 0.0
    """POSIX time."""


AnyProgress = TypeVar("AnyProgress", bound=StageProgress)


def read_progress(store: Store, kind: type[AnyProgress]) -> AnyProgress | None:
    """The progress file of an artifact's folder. None if it is missing, damaged, unreadable, or of another format.

    Raises:
        UserError: the object store cannot be reached.
    """
    try:
        return kind.model_validate_json(store.read(PROGRESS))
    except (OSError, ValidationError):
        return None


def is_alive(progress: StageProgress, at: float) -> bool:
    """True if the driver is at work: its process runs, or, if it cannot be seen from here, the file is fresh. `at`: POSIX time."""
    if progress.ended:
        return False
    here = is_running(progress.model_dump())
    return at - progress.updated_s < FRESH_S if here is None else here


def phase_text(phase: str, seconds: float) -> str:
    """`starting engine, 31 s`."""
    return f"{phase}, {duration(round(max(seconds, 0)))}"


def rate_text(per_second: float, unit: str) -> str:
    """`20.0 rows/s`, or `15.0 cells/h` for work whose units take minutes."""
    slow = 0.0 < per_second < 0.05  # per second, it would read as 0.0
    return f"{3600 * per_second:.1f} {unit}/h" if slow else f"{per_second:.1f} {unit}/s"


def counted(done: int, total: int | None, unit: str) -> str:
    """`300/1,000 rows`. Empty before anything is counted."""
    if total is None:
        return f"{done:,} {unit}" if done else ""
    return f"{done:,}/{total:,} {unit}"
