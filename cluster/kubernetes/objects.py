"""Kubernetes' objects as JSON: the kinds that the commands use, and lookups in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pipelines.errors import UserError

Object = dict[str, Any]
GPU = "nvidia.com/gpu"
HEAD = "head"
"""Name of the group of a cluster's head."""
PART = "raystill.io/part"
NODE = "raystill.io/node"
"""A label of every pod: head, worker or submitter."""
OURS = "app.kubernetes.io/part-of=raystill"
"""Label of all objects that an overlay renders for people to see and delete."""
_UNLIMITED = 2**31 - 1
"""KubeRay's default of maxReplicas."""
_CLUSTER_AT = {"RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}


@dataclass(frozen=True)
class Kind:
    """A kind of object, and its place in the API."""

    api_version: str
    name: str
    plural: str
    namespaced: bool = True

    @property
    def group(self) -> str:
        """`ray.io`; empty for Kubernetes' core."""
        return self.api_version.rpartition("/")[0]

    def __str__(self) -> str:
        """As in roles and messages: `rayjobs.ray.io`, `pods`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str, name: str = "") -> str:
        """The path of one object, or of all objects of a namespace."""
        root = f"/apis/{self.api_version}" if self.group else f"/api/{self.api_version}"
        within = f"/namespaces/{namespace}" if self.namespaced else ""
        return f"{root}{within}/{self.plural}" + (f"/{name}" if name else "")


RAYJOB = Kind("ray.io/v1", "RayJob", "rayjobs")
RAYSERVICE = Kind("ray.io/v1", "RayService", "rayservices")
RAYCLUSTER = Kind("ray.io/v1", "RayCluster", "rayclusters")
RAYCRONJOB = Kind("ray.io/v1", "RayCronJob", "raycronjobs")
NAMESPACE = Kind("v1", "Namespace", "namespaces", namespaced=False)
POD = Kind("v1", "Pod", "pods")
EVENT = Kind("v1", "Event", "events")
SECRET = Kind("v1", "Secret", "secrets")
CONFIG_MAP = Kind("v1", "ConfigMap", "configmaps")
CLAIM = Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
ACCOUNT = Kind("v1", "ServiceAccount", "serviceaccounts")
PRIORITY = Kind("scheduling.k8s.io/v1", "PriorityClass", "priorityclasses", namespaced=False)
REVIEW = Kind("authorization.k8s.io/v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews", namespaced=False)


def name_of(found: Object) -> str:
    """`metadata.name`."""
    return str(found["metadata"]["name"])


def titled(found: Object) -> str:
    """`RayJob/raystill-label`."""
    return f"{found['kind']}/{name_of(found)}"


def annotation(found: Object, key: str) -> str:
    """An annotation, empty if it is not set."""
    return str((found["metadata"].get("annotations") or {}).get(key, ""))


@dataclass(frozen=True)
class Group:
    """The pods of one kind in a Ray cluster."""

    name: str
    """`head`, or the worker group's name."""
    template: Object
    """Their pod template."""
    least: int
    most: int
    cpus: float
    gpus: float
    """Of one pod, as Ray counts them."""


def cluster_spec(found: Object) -> Object:
    """The RayCluster spec inside an object of Ray's kinds."""
    spec = found["spec"]
    return dict(spec[_CLUSTER_AT[found["kind"]]] if found["kind"] in _CLUSTER_AT else spec)


def groups(found: Object) -> Iterator[Group]:
    """The head and the worker groups of an object of Ray's kinds."""
    cluster = cluster_spec(found)
    yield _group(HEAD, cluster["headGroupSpec"], 1, 1)
    for group in cluster.get("workerGroupSpecs") or []:
        hosts = int(group.get("numOfHosts", 1))
        least, most = int(group.get("minReplicas", 0)), int(group.get("maxReplicas", _UNLIMITED))
        yield _group(str(group["groupName"]), group, least * hosts, most * hosts)


def pod_templates(found: Object) -> dict[str, Object]:
    """Each pod template of a RayJob by the name of its pods: head, groups, submitter."""
    templates = {group.name: group.template for group in groups(found)}
    if submitter := found["spec"].get("submitterPodTemplate"):
        templates["submitter"] = submitter
    return templates


def _group(name: str, spec: Object, least: int, most: int) -> Group:
    container, start = spec["template"]["spec"]["containers"][0], spec.get("rayStartParams") or {}
    limits = container.get("resources", {}).get("limits", {})
    cpus, gpus = (
        _quantity(start.get(option, limits.get(kind, 0)), f"{name}: {kind}")
        for option, kind in (("num-cpus", "cpu"), ("num-gpus", GPU))
    )
    return Group(name, spec["template"], least, most, cpus, gpus)


def _quantity(text: object, where: str) -> float:
    """`500m` is 0.5. Raises UserError if it is no quantity."""
    from kubernetes.utils.quantity import parse_quantity

    try:
        return float(parse_quantity(str(text)))
    except ValueError as error:
        raise UserError(
            f"{where} {text}", "it is no quantity of Kubernetes", "Write it like 500m, 8 or 64Gi."
        ) from error


def named(objects: Iterable[Object], kind: str) -> list[Object]:
    """The objects of a kind."""
    return [found for found in objects if found["kind"] == kind]
