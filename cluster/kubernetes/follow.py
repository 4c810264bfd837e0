"""Follow a job: why it waits, then its log, to its end."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TextIO

from cluster.jobs.following import answered, write_log
from cluster.jobs.job import JobFailedError
from cluster.kubernetes.api import Api, ApiError
from cluster.kubernetes.objects import POD, RAYJOB, Object
from cluster.kubernetes.state import REFUSED, RETRYING, JobState
from cluster.kubernetes.submit import POLL_S, take_back
from cluster.kubernetes.waiting import CORRECT_OVERLAY, Reason, reasons
from cluster.session.connection import UnreachableError
from pipelines.errors import StageFailedError, UserError
from pipelines.runtime.durations import duration

_LINE_EVERY_S = 60.0
_HOPELESS_S = 30.0
"""A cause that waiting does not remove must last this long: objects can be created in any order."""
_NO_OPERATOR_S = 120.0
USER_ERROR = UserError.exit_code
_LOGGED = ("Running", "Succeeded", "Failed")
"""Phases of a pod that has a log."""


@dataclass
class _Log:
    """The part of a submitter's log that is written."""

    out: TextIO
    pod: str = ""
    """Its uid."""
    last: str = ""
    """Time of the last line, as the server writes it: RFC 3339 with nine digits, so texts compare like times."""
    lines_at_last: int = 0

    def copy(self, api: Api, pod: Object, *, to_end: bool) -> None:
        """Write the lines that are new. Blocks until the pod ends or is silent for a while, unless `to_end` is False."""
        if pod["metadata"]["uid"] != self.pod:
            self.pod, self.last, self.lines_at_last = pod["metadata"]["uid"], "", 0
        skip = self.lines_at_last
        for line in api.log(pod, since=self.last, follow=to_end):
            moment, _, text = line.partition(" ")
            if moment < self.last:
                continue
            if moment == self.last and skip:
                skip -= 1
                continue
            self.lines_at_last = self.lines_at_last + 1 if moment == self.last else 1
            self.last = moment
            write_log(self.out, f"{text}\n")


class _Line:
    """Says on stderr what a job waits for: once when it changes, and every minute."""

    def __init__(self, stage: str) -> None:
        self._stage, self._began, self._printed_s, self._text = stage, time.monotonic(), float("-inf"), ""

    def show(self, found: list[Reason]) -> None:
        now = time.monotonic()
        text = "; ".join(reason.text for reason in found)
        if text and (text != self._text or now - self._printed_s >= _LINE_EVERY_S):
            print(f"{self._stage}: {duration(round(now - self._began))}, waits for {text}", file=sys.stderr, flush=True)
            self._printed_s = now
        self._text = text


def follow(api: Api, job: JobState, out: TextIO, *, new: bool = False) -> JobState:
    """Copy the job's log to `out` until it ends.

    Args:
        new: this process has created it. If it cannot start, it is deleted.

    Raises:
        UserError: it cannot start; the message says what to do.
        JobFailedError: its input is wrong; another attempt would fail in the same way.
        StageFailedError: it was deleted meanwhile, or the API server is unreachable for five minutes.
    """
    log, line, hopeless = _Log(out), _Line(job.stage), _Hopeless()
    while True:
        job = poll(api, job)
        pod = submitter(api, job)
        if pod is not None and pod["status"].get("phase") in _LOGGED:
            _copy(api, log, pod, to_end=not job.has_ended)
        if new and job.phase == REFUSED:
            take_back(api, job)
            raise UserError(
                f"job {job.job}",
                f"KubeRay's operator refuses it ({job.reason})",
                f"{CORRECT_OVERLAY} The job is deleted.",
            )
        if job.has_ended:
            return job
        if new and job.phase == RETRYING and job.exit_code == USER_ERROR:
            take_back(api, job)
            raise JobFailedError(
                f"{job.job} failed ({job.reason}): its input is wrong. It is deleted, not retried.", USER_ERROR
            )
        found = _reasons(api, job)
        line.show(found)
        if remedy := hopeless.remedy(job, found):
            _give_up(api, job, found, remedy, new=new)
        time.sleep(POLL_S)


class _Hopeless:
    """Decides when waiting is given up."""

    def __init__(self) -> None:
        self._since_s: float | None = None

    def remedy(self, job: JobState, found: list[Reason]) -> str:
        """What to do instead of waiting; empty: wait."""
        now, remedies = time.monotonic(), [reason.remedy for reason in found if reason.remedy]
        unseen = not job.phase and not job.suspended and not job.deleting
        if job.status == "running" or not (remedies or unseen):  # other pods do the work
            self._since_s = None
            return ""
        if self._since_s is None:
            self._since_s = now
        if remedies:
            return remedies[0] if now - self._since_s >= _HOPELESS_S else ""
        where = "`kubectl get deployments -A -l app.kubernetes.io/name=kuberay-operator`"
        remedy = f"Check that the operator runs ({where}) and watches namespace {job.namespace}."
        return remedy if now - self._since_s >= _NO_OPERATOR_S else ""


def _give_up(api: Api, job: JobState, found: list[Reason], remedy: str, *, new: bool) -> None:
    cause = next((reason.text for reason in found if reason.remedy), found[0].text)
    if new:
        take_back(api, job)
    end = (
        "The job is deleted"
        if new
        else f"The job still waits; `raystill k8s stop {job.job} -n {job.namespace}` deletes it"
    )
    raise UserError(f"job {job.job}", f"it waits for {cause}", f"{remedy} {end}.")


def poll(api: Api, job: JobState) -> JobState:
    """The job's present state. Waits for an unreachable API server; raises StageFailedError after five minutes."""
    later = f"{job.job} may still be running; follow it with `raystill k8s logs {job.job} -n {job.namespace} -f`."
    try:
        found = answered(lambda: api.get(RAYJOB, job.namespace, job.job), later)
    except (UserError, ApiError) as error:  # the credentials have expired, or a right was withdrawn
        raise StageFailedError(f"{error} {later}") from error
    if found is None or found["metadata"].get("uid") != job.uid:
        raise StageFailedError(
            f"{job.job} was deleted by another process. Its finished work stays; run again to resume."
        )
    return JobState.of(found)


def submitter(api: Api, job: JobState) -> Object | None:
    """The newest pod that submits the job and prints its log; None if no such pod exists, or the server is unreachable."""
    try:
        pods = api.list(POD, job.namespace, labels=f"job-name={job.job}")
    except (UnreachableError, ApiError):
        return None
    return max(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")), default=None)


def with_reasons(api: Api, job: JobState) -> JobState:
    """The job with what it waits for."""
    found = [] if job.has_ended else reasons(api, job)
    return job.model_copy(update={"waiting_for": [reason.text for reason in found]})


def _reasons(api: Api, job: JobState) -> list[Reason]:
    try:
        return reasons(api, job)
    except (UnreachableError, ApiError):  # the next poll reports it
        return []


def _copy(api: Api, log: _Log, pod: Object, *, to_end: bool) -> None:
    try:
        log.copy(api, pod, to_end=to_end)
    except (UnreachableError, ApiError) as error:
        # A cut connection, or a node that does not answer: the next round resumes at the last line. After the end no line follows.
        if not to_end:
            print(f"warning: the rest of the log cannot be read ({error})", file=sys.stderr, flush=True)


def print_log(api: Api, job: JobState, out: TextIO) -> None:
    """Write the log so far. Raises UserError if no pod has one."""
    pod = submitter(api, job)
    if pod is None or pod["status"].get("phase") not in _LOGGED:
        text = "; ".join(reason.text for reason in _reasons(api, job))
        rule = (
            f"it has no log yet{'; it waits for ' + text if text else ''}"
            if not job.has_ended
            else "its log is gone with its pod"
        )
        raise UserError(
            f"job {job.job}",
            rule,
            "Add -f to follow it." if not job.has_ended else "Read it where logs are shipped to.",
        )
    _Log(out).copy(api, pod, to_end=False)
