"""Objects without a problem, to be changed in one place: what a case is made of."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field
from typing import Any

Objects = dict[str, dict[str, Any]]

DROP = object()
"""As a new value: the field is removed."""

POD = "spec.workerGroupSpecs[0].template.spec"
APP = f"{POD}.containers[0]"
HEAD = "spec.headGroupSpec.template.spec"
"""Where Pods stand in a RayCluster: a worker's, its container, the head's."""

_IMAGE = "registry.example/raystill:1.0"
_LIMITED = {"limits": {"cpu": "2", "memory": "8Gi"}, "requests": {"cpu": "2", "memory": "8Gi"}}


@dataclass(frozen=True)
class Case:
    """A base with changes: `rule` is what refuses it, None where nothing does; `changes` are values by path."""

    rule: str | None
    base: str
    changes: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def objects(self) -> list[dict[str, Any]]:
        """The changed object first, then what it needs beside it."""
        item = changed(BASES[self.base], self.changes)
        return [item, *copy.deepcopy(BESIDE.get(self.base, []))]

    def __str__(self) -> str:
        return f"{self.base}: {', '.join(self.changes) or 'as it is'}: {self.rule or 'fine'}"


def changed(item: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy with some values replaced, added or dropped; missing mappings on the way are made.

    >>> changed({"spec": {"ports": [{"port": 80}]}}, {"spec.ports[0].port": 0})
    {'spec': {'ports': [{'port': 0}]}}
    """
    result = copy.deepcopy(item)
    for path, value in changes.items():
        keys = [int(key) if key.isdigit() else key for key in re.findall(r"[^.\[\]]+", path)]
        node: Any = result
        for key in keys[:-1]:
            node = node[key] if isinstance(node, list) else node.setdefault(key, {})
        if value is DROP:
            del node[keys[-1]]
        else:
            node[keys[-1]] = copy.deepcopy(value)
    return result


def in_worker(rule: str | None, field: str, value: Any, base: str = "RayCluster") -> Case:
    """A change of the worker's container."""
    return Case(rule, base, {f"{APP}.{field}": value})


def in_pod(rule: str | None, field: str, value: Any) -> Case:
    """A change of the worker's Pod."""
    return Case(rule, "RayCluster", {f"{POD}.{field}": value})


def in_worker_pod(rule: str | None, **changes: Any) -> Case:
    """Changes of the worker's Pod by field; those of its container stand under `container`."""
    of_container = changes.pop("container", {})
    pod = {f"{POD}.{field}": value for field, value in changes.items()}
    return Case(rule, "RayCluster", {**pod, **{f"{APP}.{field}": value for field, value in of_container.items()}})


def container(name: str, **more: Any) -> dict[str, Any]:
    """A small one, for a Pod that needs another."""
    return {"name": name, "image": "registry.example/init:1", "securityContext": {"runAsNonRoot": True}, **more}


def _container(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "image": _IMAGE, "resources": _LIMITED, "securityContext": {"runAsNonRoot": True}, **more}


def _template(container: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"metadata": {"labels": {"app": "raystill"}}, "spec": {"containers": [container], **more}}


_GPU = {"limits": {"nvidia.com/gpu": "1", "memory": "24Gi"}, "requests": {"cpu": "4", "memory": "24Gi"}}
_SHM = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}}

CLUSTER: dict[str, Any] = {
    "rayVersion": "2.60.0",
    "headGroupSpec": {"rayStartParams": {"num-cpus": "0"}, "template": _template(_container("ray-head"))},
    "workerGroupSpecs": [
        {
            "groupName": "gpu",
            "replicas": 1,
            "minReplicas": 1,
            "maxReplicas": 2,
            "template": _template(
                _container(
                    "ray-worker",
                    resources=_GPU,
                    ports=[{"name": "metrics", "containerPort": 8080}],
                    volumeMounts=[{"name": "shm", "mountPath": "/dev/shm"}],
                ),
                volumes=[_SHM],
            ),
        }
    ],
}
AUTOSCALED = {
    **CLUSTER,
    "enableInTreeAutoscaling": True,
    "autoscalerOptions": {"version": "v2", "idleTimeoutSeconds": 60},
}
_JOB = {"entrypoint": "raystill train run.yaml", "shutdownAfterJobFinishes": True, "rayClusterSpec": CLUSTER}
_SERVE = "applications: [{name: app, route_prefix: /, import_path: 'json:dumps'}]"
_UPGRADE = {
    "type": "NewClusterWithIncrementalUpgrade",
    "clusterUpgradeOptions": {
        "gatewayClassName": "istio",
        "stepSizePercent": 20,
        "intervalSeconds": 30,
        "maxSurgePercent": 50,
    },
}


def _object(api_version: str, kind: str, **body: Any) -> dict[str, Any]:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": "raystill", "namespace": "raystill"}, **body}


def _workload(kind: str, **spec: Any) -> dict[str, Any]:
    labels = {"matchLabels": {"app": "raystill"}}
    return _object("apps/v1", kind, spec={"selector": labels, "template": _template(_container("app")), **spec})


_ROLE_RULE = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}
_CLAIM = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
_BATCH = {"spec": _template(_container("app"), restartPolicy="Never")["spec"]}
_PEERS = [
    {"from": [{"podSelector": {"matchLabels": {"app": "raystill"}}}], "ports": [{"port": 8000, "protocol": "TCP"}]}
]

BASES: Objects = {
    "RayCluster": _object("ray.io/v1", "RayCluster", spec=CLUSTER),
    "autoscaled RayCluster": _object("ray.io/v1", "RayCluster", spec=AUTOSCALED),
    "RayJob": _object("ray.io/v1", "RayJob", spec=_JOB),
    "RayJob with selector": _object(
        "ray.io/v1", "RayJob", spec={"entrypoint": "python -m app", "clusterSelector": {"ray.io/cluster": "raystill"}}
    ),
    "RayCronJob": _object(
        "ray.io/v1", "RayCronJob", spec={"schedule": "0 3 * * *", "timeZone": "Europe/Berlin", "jobTemplate": _JOB}
    ),
    "RayService": _object("ray.io/v1", "RayService", spec={"serveConfigV2": _SERVE, "rayClusterConfig": CLUSTER}),
    "incremental RayService": _object(
        "ray.io/v1",
        "RayService",
        spec={"serveConfigV2": _SERVE, "rayClusterConfig": AUTOSCALED, "upgradeStrategy": _UPGRADE},
    ),
    "Deployment": _workload("Deployment", replicas=1),
    "StatefulSet": _workload(
        "StatefulSet", serviceName="raystill", volumeClaimTemplates=[{"metadata": {"name": "data"}, "spec": _CLAIM}]
    ),
    "Pod": _object("v1", "Pod", spec=_template(_container("app"))["spec"]),
    "Job": _object("batch/v1", "Job", spec={"template": _BATCH}),
    "CronJob": _object(
        "batch/v1", "CronJob", spec={"schedule": "0 3 * * *", "jobTemplate": {"spec": {"template": _BATCH}}}
    ),
    "Service": _object(
        "v1", "Service", spec={"selector": {"app": "raystill"}, "ports": [{"name": "http", "port": 8000}]}
    ),
    "Budget": _object(
        "policy/v1", "PodDisruptionBudget", spec={"minAvailable": 1, "selector": {"matchLabels": {"app": "raystill"}}}
    ),
    "Claim": _object("v1", "PersistentVolumeClaim", spec=_CLAIM),
    "Role": _object("rbac.authorization.k8s.io/v1", "Role", rules=[_ROLE_RULE]),
    "RoleBinding": _object(
        "rbac.authorization.k8s.io/v1",
        "RoleBinding",
        roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "raystill"},
        subjects=[{"kind": "ServiceAccount", "name": "raystill", "namespace": "raystill"}],
    ),
    "NetworkPolicy": _object("networking.k8s.io/v1", "NetworkPolicy", spec={"podSelector": {}, "ingress": _PEERS}),
    "ConfigMap": _object("v1", "ConfigMap", data={"run.yaml": "name: x"}),
    "Secret": _object("v1", "Secret", type="Opaque"),
    "PodMonitor": _object(
        "monitoring.coreos.com/v1",
        "PodMonitor",
        spec={
            "selector": {"matchLabels": {"ray.io/node-type": "worker"}},
            "podMetricsEndpoints": [{"port": "metrics"}],
        },
    ),
    "LocalQueue": _object("kueue.x-k8s.io/v1beta2", "LocalQueue", spec={"clusterQueue": "raystill"}),
}

_QUEUE = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "ClusterQueue", "metadata": {"name": "raystill"}, "spec": {}}
_ACCOUNT = _object("v1", "ServiceAccount")

BESIDE: dict[str, list[dict[str, Any]]] = {
    "RayJob with selector": [BASES["RayCluster"]],
    "StatefulSet": [BASES["Service"]],
    "Service": [BASES["Deployment"]],
    "Budget": [BASES["Deployment"]],
    "RoleBinding": [BASES["Role"], _ACCOUNT],
    "PodMonitor": [BASES["RayCluster"]],
    "LocalQueue": [_QUEUE],
}
"""What else a base needs to be whole."""
