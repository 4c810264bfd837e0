"""Why a job does not run yet: what its status, its cluster, its pods and their events say."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.kubernetes.api import Api
from cluster.kubernetes.objects import EVENT, POD, RAYCLUSTER, Object, name_of
from cluster.kubernetes.state import RETRYING, JobState

_PULL = ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "RegistryUnavailable", "InvalidImageName")
_WRONG_IMAGE = re.compile(
    r"not found|manifest unknown|unauthorized|denied|forbidden|invalid|authentication required", re.IGNORECASE
)
"""In the message of a failed pull that time does not heal."""
_MISSING = re.compile(
    r'(persistentvolumeclaim|secret|configmap|serviceaccount) "?([\w./-]+)"? not found', re.IGNORECASE
)
_SHORT = re.compile(r"Insufficient ([\w./-]*\w)")
_STARTING = ("ContainerCreating", "PodInitializing")
_CHARACTERS = 300
CORRECT_OVERLAY = "Correct the overlay, or upgrade the operator if it is older than the manifests."


@dataclass(frozen=True)
class Reason:
    """One thing that a job waits for."""

    text: str
    remedy: str = ""
    """Not empty: waiting does not help, this does."""
    who: str = ""
    """The kind of pod: head, worker, submitter."""


def reasons(api: Api, job: JobState) -> list[Reason]:
    """What a job waits for, causes before consequences. Empty if it only needs time."""
    if job.deleting:
        return [Reason("its deletion: a finalizer is left")]
    events = _events(api, job.namespace, f"involvedObject.name={job.job}")
    if not job.phase or job.phase.startswith("Suspend"):
        return [_before_its_cluster(api, job, events)]
    if job.phase == RETRYING:
        return [Reason(f"a new cluster: attempt {job.failed_attempts} failed ({job.reason})")]
    cluster = api.get(RAYCLUSTER, job.namespace, job.cluster) if job.cluster else None
    pods = [pod for labels in job.pod_selectors for pod in api.list(POD, job.namespace, labels=labels)]
    found = _refused_pods(cluster)
    found += [reason for pod in pods if (reason := pod_reason(pod, _mount_problem(api, job.namespace, pod)))]
    if not any(_kind(pod) == "submitter" for pod in pods):
        # A quota can stop it alone. Kubernetes' controller of Jobs reports that as an event of the Job, which has the job's name.
        found += [_quota("submitter", text) for text in events[-1:] if "exceeded quota" in text]
    return _counted(found) or _not_ready(cluster, job)


def _before_its_cluster(api: Api, job: JobState, events: Sequence[str]) -> Reason:
    """No pod exists: the operator or a queue holds the job."""
    if refused := [text for text in events if " is invalid: " in text]:
        return Reason(f"the operator, which refuses it: {_short(refused[-1])}", CORRECT_OVERLAY)
    if job.suspended:
        workloads = _events(api, job.namespace, "involvedObject.kind=Workload", f"rayjob-{job.job}-")
        return Reason(f"its queue: {workloads[-1] if workloads else 'Kueue has not admitted it'}")
    return Reason("the operator, which has not seen it")


def _refused_pods(cluster: Object | None) -> list[Reason]:
    """Pods that the operator could not create."""
    conditions = ((cluster or {}).get("status") or {}).get("conditions") or []
    found = []
    for condition in conditions:
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            who = "head" if "Head" in condition.get("reason", "") else "worker"
            message = str(condition.get("message", ""))
            found.append(
                _quota(who, message)
                if "exceeded quota" in message
                else Reason(f"pods that are refused: {_short(message)}", who=who)
            )
    return found


def _quota(who: str, message: str) -> Reason:
    return Reason(f"its quota: {_short(message[message.index('exceeded quota') :])}", who=who)


def pod_reason(pod: Object, mount_problem: str = "") -> Reason | None:
    """Why a pod does not run; None if it runs or has ended well."""
    who = _kind(pod)
    status = pod.get("status") or {}
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return _unscheduled(who, str(condition.get("message") or condition.get("reason") or "not scheduled"))
    containers = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    for container in containers:
        if waiting := (container.get("state") or {}).get("waiting"):
            return _waiting(
                who, container, str(waiting.get("reason", "")), str(waiting.get("message", "")), mount_problem
            )
    if status.get("phase") == "Failed":
        reason = ": ".join(filter(None, (status.get("reason") or _end(containers), _short(status.get("message", "")))))
        return Reason(f"another pod, since one failed ({reason or 'no reason'})", who=who)
    return None


def _kind(pod: Object) -> str:
    """Head, worker or submitter."""
    return str((pod["metadata"].get("labels") or {}).get("ray.io/node-type", "submitter"))


def _unscheduled(who: str, message: str) -> Reason:
    text = message.split(" preemption:")[0].split(" no new claims")[0].rstrip(" .")
    if missing := _missing(message):
        return Reason(missing, "Create it, or correct its name in the overlay.", who)
    short = list(dict.fromkeys(_SHORT.findall(text)))
    return Reason(f"{', '.join(short) if short else 'a node'}: {_short(text)}", who=who)


def _waiting(who: str, container: Object, reason: str, message: str, mount_problem: str) -> Reason | None:
    """The reason of a container that waits."""
    if reason in _PULL:
        image = container.get("image", "")
        text = f"image {image}, which cannot be pulled: {_short(message or reason)}"
        if reason == "InvalidImageName" or _WRONG_IMAGE.search(message):
            return Reason(text, "Correct the image in the overlay's settings, or its pull secret.", who)
        return Reason(text, who=who)
    if reason in ("CreateContainerConfigError", "CreateContainerError"):
        missing = _missing(message)
        return Reason(
            missing or f"a container that cannot be created: {_short(message)}", "Create it." if missing else "", who
        )
    if reason == "CrashLoopBackOff":
        return Reason(f"a container that ends again and again ({_end([container]) or message})", who=who)
    if mount_problem:
        missing = _missing(mount_problem)
        return Reason(missing or f"a volume: {_short(mount_problem)}", "Create it." if missing else "", who)
    if reason in _STARTING:
        return Reason("its start: an image is pulled, or an init container waits for the head", who=who)
    return Reason(f"{reason}: {_short(message)}", who=who)


def _missing(message: str) -> str:
    """`persistentvolumeclaim raystill-data, which does not exist`; empty if the message says nothing of it."""
    found = _MISSING.search(message)
    return f"{found[1].lower()} {found[2]}, which does not exist" if found else ""


def _end(containers: Sequence[Object]) -> str:
    """How a container ended last: `OOMKilled`, `exit code 1`."""
    for container in containers:
        for state in (container.get("state") or {}, container.get("lastState") or {}):
            if (ended := state.get("terminated")) and ended.get("exitCode"):
                return (
                    str(ended["reason"])
                    if ended.get("reason", "Error") != "Error"
                    else f"exit code {ended['exitCode']}"
                )
    return ""


def _mount_problem(api: Api, namespace: str, pod: Object) -> str:
    """Only an event says why a volume is not mounted."""
    states = ((pod.get("status") or {}).get("containerStatuses")) or []
    if not any((one.get("state") or {}).get("waiting", {}).get("reason") in _STARTING for one in states):
        return ""
    events = _events(api, namespace, f"involvedObject.name={name_of(pod)},reason=FailedMount")
    return events[-1] if events else ""


def _counted(found: Sequence[Reason]) -> list[Reason]:
    """Equal reasons once, with the number of their pods; those that time does not heal first."""
    counts = Counter(found)
    shown = []
    for reason, count in sorted(counts.items(), key=lambda item: not item[0].remedy):
        pods = f" ({count} {reason.who}{'s' if count > 1 else ''})" if reason.who else ""
        shown.append(Reason(reason.text + pods, reason.remedy, reason.who))
    return shown


def _not_ready(cluster: Object | None, job: JobState) -> list[Reason]:
    """All pods that exist run, and the job does not."""
    if job.status == "running":
        return []
    if cluster is None:
        return [Reason("the operator, which has not created its cluster")]
    status = cluster.get("status") or {}
    wanted, ready = (int(status.get(key) or 0) for key in ("desiredWorkerReplicas", "readyWorkerReplicas"))
    if ready < wanted:
        return [Reason(f"workers: {ready} of {wanted} are ready")]
    return [Reason("its driver to start")]


def _events(api: Api, namespace: str, fields: str, prefix: str = "") -> list[str]:
    """Messages of warnings, the newest last. `prefix`: of the object's name."""
    found = [
        event for event in api.list(EVENT, namespace, fields=f"{fields},type=Warning")
        if event["involvedObject"].get("name", "").startswith(prefix)
    ]  # fmt: skip
    return [str(event.get("message", "")) for event in sorted(found, key=_moment)]


def _moment(event: Object) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or "")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _CHARACTERS else f"{line[:_CHARACTERS]}..."
