"""What a RayJob's status says."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from cluster.kubernetes.job import OUTPUT, RUN, SETTINGS
from cluster.kubernetes.objects import PART, Object, annotation, name_of

_EXIT_CODE = re.compile(r"failed with exit code (\d+)")
"""Ray's words for a driver that ended by itself."""
REFUSED = "ValidationFailed"
"""The phase of a job that the operator does not start."""
_ENDED = ("Complete", "Failed", REFUSED)
RETRYING = "Retrying"
"""The phase in which KubeRay ends the cluster of a failed attempt, before it starts another one."""
_SHOWN = 500

Status = Literal["pending", "running", "succeeded", "failed", "stopped"]


class JobState(BaseModel):
    """One RayJob at one moment. `--json` prints its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    job: str
    namespace: str
    run: str
    stage: str
    output: str
    status: Status
    exit_code: int | None
    """Of the driver, or of its last attempt; None if it has not ended by itself."""
    message: str
    failed_attempts: int
    created: str
    started: str | None
    ended: str | None
    cluster: str
    """Name of its RayCluster; empty before the operator has chosen one."""
    waiting_for: list[str] = []
    """Why it does not run yet."""
    phase: str = Field(exclude=True)
    """KubeRay's jobDeploymentStatus; empty before the operator has seen the job."""
    suspended: bool = Field(exclude=True)
    deleting: bool = Field(exclude=True)
    uid: str = Field(exclude=True)
    settings: str = Field(exclude=True)

    @classmethod
    def of(cls, found: Object) -> JobState:
        """The state of a RayJob as the API server returns it."""
        status, metadata = found.get("status") or {}, found["metadata"]
        phase, message = status.get("jobDeploymentStatus", ""), str(status.get("message", ""))
        reason = " ".join(dict.fromkeys(text for text in (status.get("reason", ""), message.strip()) if text))
        code = _EXIT_CODE.search(message)
        state = _status(phase, str(status.get("jobStatus", "")))
        return cls(
            job=name_of(found), namespace=metadata.get("namespace", "default"), run=annotation(found, RUN),
            stage=(metadata.get("labels") or {}).get(PART, ""), output=annotation(found, OUTPUT), status=state,
            exit_code=0 if state == "succeeded" else int(code[1]) if code and phase in (*_ENDED, RETRYING) else None,
            message=reason[:_SHOWN], failed_attempts=int(status.get("failed") or 0),
            created=metadata.get("creationTimestamp", ""), started=status.get("startTime"), ended=status.get("endTime"),
            cluster=status.get("rayClusterName", ""), phase=phase, suspended=bool(found["spec"].get("suspend")),
            deleting="deletionTimestamp" in metadata, uid=metadata.get("uid", ""),
            settings=annotation(found, SETTINGS),
        )  # fmt: skip

    @property
    def has_ended(self) -> bool:
        """True if no attempt follows."""
        return self.phase in _ENDED

    @property
    def pod_selectors(self) -> list[str]:
        """Labels of the pods of its cluster, and of its submitter."""
        return [*([f"ray.io/cluster={self.cluster}"] if self.cluster else []), f"job-name={self.job}"]

    @property
    def reason(self) -> str:
        """Why it failed, on one line."""
        if self.exit_code is not None:
            return f"exit code {self.exit_code}"
        return self.message.partition("\n")[0] or "KubeRay gives no reason"


def _status(phase: str, job: str) -> Status:
    """`job`: Ray's status of the driver. A failed driver whose job KubeRay starts again is pending."""
    if phase in _ENDED:
        if phase == "Complete" and job in ("SUCCEEDED", "STOPPED"):
            return "succeeded" if job == "SUCCEEDED" else "stopped"
        return "failed"
    return "running" if phase == "Running" and job == "RUNNING" else "pending"
