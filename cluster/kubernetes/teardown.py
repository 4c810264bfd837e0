"""Take an overlay down in an order that ends: Ray's objects, their end, then what they and the operator need.

KubeRay's objects have finalizers that the operator removes, with rights from the overlay. Deleting all at once leaves them behind for good.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from cluster.kubernetes.api import Api, ApiError
from cluster.kubernetes.objects import (
    CLAIM,
    NODE,
    OURS,
    POD,
    RAYCLUSTER,
    RAYCRONJOB,
    RAYJOB,
    RAYSERVICE,
    Kind,
    Object,
    name_of,
    titled,
)  # fmt: skip
from cluster.kubernetes.state import JobState
from cluster.kubernetes.submit import POLL_S, delete_job
from pipelines.errors import StageFailedError
from pipelines.runtime.durations import duration

RAY = (RAYCRONJOB, RAYJOB, RAYSERVICE, RAYCLUSTER)
"""In this order: a schedule starts jobs, and a job or a service starts a deleted cluster again."""
_STOPPED_S = 420.0
"""Longer than the grace period of any of our pods, 330 s."""


@dataclass(frozen=True)
class Removed:
    """What was deleted and what stays, as KIND/NAME."""

    deleted: tuple[str, ...]
    kept: tuple[str, ...]


def stop(api: Api, job: JobState) -> None:
    """Delete a job and wait until its pods have ended.

    Raises:
        StageFailedError: they do not end within seven minutes.
    """
    delete_job(api, job)

    def left() -> list[str]:
        found = api.get(RAYJOB, job.namespace, job.job)
        mine = [found] if found is not None and found["metadata"].get("uid") == job.uid else []
        pods = [pod for labels in job.pod_selectors for pod in api.list(POD, job.namespace, labels=labels)]
        return [*map(_left, mine), *map(_left, pods)]

    _wait(left, job.namespace, _STOPPED_S)


def take_down(
    api: Api, objects: Sequence[Object], namespace: str, *, claims: bool, say: Callable[[str], None]
) -> Removed:
    """Delete the Ray objects of an overlay's namespace, wait, and delete the overlay's other objects.

    Args:
        objects: what the overlay renders.
        claims: also delete the claims, and so models and artifacts.
        say: prints a line of progress.

    Raises:
        StageFailedError: Ray's objects do not end; nothing else is deleted.
    """
    deleted, rays = [], [kind for kind in RAY if api.kind(kind.api_version, kind.name)]
    for kind in rays:
        for found in _listed(api, kind, namespace):
            api.delete(kind, namespace, name_of(found))
            deleted.append(f"{kind.name}/{name_of(found)}")
    say(f"waiting for the end of {', '.join(deleted) or 'pods'}")

    def left() -> list[str]:
        objects = [found for kind in rays for found in _listed(api, kind, namespace)]
        return [*map(_left, objects), *map(_left, api.list(POD, namespace, labels=NODE))]

    _wait(left, namespace, _STOPPED_S)
    kept = []
    for found in _in_order(objects):
        known = api.kind(found["apiVersion"], found["kind"])
        if known is None or known in RAY:
            continue
        # Other namespaces may use what belongs to none, such as a PriorityClass.
        if not known.namespaced or (known == CLAIM and not claims):
            kept.append(titled(found))
        elif _delete(api, known, found):
            deleted.append(titled(found))
    return Removed(tuple(deleted), tuple(kept))


def _listed(api: Api, kind: Kind, namespace: str) -> list[Object]:
    """Raystill's objects of a kind. The operator gives the clusters that it makes none of our labels, but to their pods."""
    if kind is not RAYCLUSTER:
        return api.list(kind, namespace, labels=OURS)
    return [found for found in api.list(kind, namespace) if NODE in _pod_labels(found)]


def _pod_labels(cluster: Object) -> Object:
    return dict(cluster["spec"]["headGroupSpec"]["template"].get("metadata", {}).get("labels") or {})


def _in_order(objects: Iterable[Object]) -> list[Object]:
    """Roles and accounts last: what is deleted before may need them."""
    late = ("NetworkPolicy", "PersistentVolumeClaim", "Role", "RoleBinding", "ServiceAccount", "Namespace")
    return sorted(objects, key=lambda found: late.index(found["kind"]) if found["kind"] in late else -1)


def _delete(api: Api, kind: Kind, found: Object) -> bool:
    """Delete an object. False if it does not exist."""
    try:
        api.delete(kind, found["metadata"].get("namespace", ""), name_of(found), missing_ok=False)
    except ApiError as error:
        if error.code == 404:
            return False
        raise
    return True


def _wait(left: Callable[[], Sequence[str]], namespace: str, timeout_s: float) -> None:
    until = time.monotonic() + timeout_s
    while found := left():
        if time.monotonic() >= until:
            rule = f"{', '.join(found)} in namespace {namespace} did not end within {duration(timeout_s)}. Nothing else is deleted. "
            raise StageFailedError(
                f"{rule}The operator removes its finalizers: check that it runs, and run the same command again."
            )
        time.sleep(POLL_S)


def _left(found: Object) -> str:
    finalizers = ", ".join(found["metadata"].get("finalizers") or [])
    name = f"{found.get('kind', 'Pod')}/{name_of(found)}"
    return f"{name} (finalizer {finalizers})" if finalizers else name
