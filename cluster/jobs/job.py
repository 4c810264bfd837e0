"""What a job is: its id, its driver, how it ended.

The id is derived from run, stage and output: `raystill-svamp-label-1f2e3d4c`. Ray takes no id twice, so later attempts of the same stage
end in `-2`, `-3`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipelines.config import RunConfig
from pipelines.errors import RaystillError
from pipelines.storage.fingerprint import fingerprint

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_ID = re.compile(r"raystill-.+-[0-9a-f]{8}(?:-(\d+))?")
_MS = 1000


class JobFailedError(RaystillError):
    """A job ended without its artifact. The command exits with the driver's exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class DetachedError(RaystillError):
    """The command no longer follows a job, which keeps running: Ctrl-C, or its output was closed."""

    exit_code = 130


@dataclass(frozen=True)
class Job:
    """One job that Raystill submitted."""

    id: str
    status: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    message: str
    metadata: Mapping[str, str]
    """`raystill` (the stage), `run`, `output` and `settings`."""
    started_s: float | None
    ended_s: float | None
    """Both since 1970."""
    exit_code: int | None

    @classmethod
    def of(cls, details: JobDetails) -> Job:
        """The job that Ray's client describes."""
        started_s, ended_s = (None if ms is None else ms / _MS for ms in (details.start_time, details.end_time))
        status = str(getattr(details.status, "value", details.status))
        message, metadata = details.message or "", dict(details.metadata or {})
        return cls(str(details.submission_id), status, message, metadata, started_s, ended_s, details.driver_exit_code)

    @property
    def ended(self) -> bool:
        """True if it succeeded, failed or was stopped."""
        return self.status in _ENDED

    @property
    def attempt(self) -> int:
        """1 for the first."""
        match = _ID.fullmatch(self.id)
        return int(match[1] or 1) if match else 1

    @property
    def reason(self) -> str:
        """Why it failed, on one line."""
        if self.exit_code is not None:
            return f"exit code {self.exit_code}"
        return self.message.strip().partition("\n")[0] or "Ray gives no reason"


@dataclass(frozen=True)
class Driver:
    """A job's driver process: what it reserves and reads."""

    cpus: float = 0.0
    """With 0 CPUs and no resources, Ray starts it on the head node."""
    resources: Mapping[str, float] = field(default_factory=dict)
    """Custom resources of its node."""
    environment: Mapping[str, str] = field(default_factory=dict)
    installed: bool = False
    """The cluster's image contains Raystill; the job carries no code."""


def job_name(run: RunConfig, stage: str) -> str:
    """Id of the first attempt."""
    return f"raystill-{run.name}-{stage}-{fingerprint({'output': run.output})[:8]}"


def is_raystill_id(job_id: str | None) -> bool:
    """True if Raystill may have made this id."""
    return job_id is not None and _ID.fullmatch(job_id) is not None
