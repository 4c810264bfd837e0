"""What Pod validation refuses in the templates of custom resources and workloads."""

from __future__ import annotations

from typing import Any

from tests.k8s.cases.bases import DROP, HEAD, POD, Case, container, in_pod, in_worker

_EXPR = {"key": "a", "operator": "In", "values": ["b"]}
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def _volume(rule: str | None, **source: Any) -> Case:
    volumes = [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}}, {"name": "extra", **source}]
    return Case(
        rule,
        "RayCluster",
        {f"{POD}.volumes": volumes},
        {"externals": ["Secret/a", "ConfigMap/a", "PersistentVolumeClaim/A_b"]},
    )


def _spread(**more: Any) -> list[dict[str, Any]]:
    return [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule", **more}]


_MOUNTS = [
    in_worker("pod/mount-without-volume", "volumeMounts", [{"name": "data", "mountPath": "/data"}]),
    Case(
        "pod/mount-path-twice",
        "StatefulSet",
        {
            "spec.template.spec.containers[0].volumeMounts": [
                {"name": "data", "mountPath": "/a"},
                {"name": "data", "mountPath": "/a"},
            ]
        },
    ),
    in_worker("pod/sub-path", "volumeMounts", [{"name": "shm", "mountPath": "/a", "subPath": "../b"}]),
    in_worker("pod/sub-path", "volumeMounts", [{"name": "shm", "mountPath": "/a", "subPath": "b", "subPathExpr": "c"}]),
    in_worker(
        "pod/mount-propagation",
        "volumeMounts",
        [{"name": "shm", "mountPath": "/a", "mountPropagation": "Bidirectional"}],
    ),
    in_worker(
        "pod/recursive-read-only", "volumeMounts", [{"name": "shm", "mountPath": "/a", "recursiveReadOnly": "Enabled"}]
    ),
    in_worker("pod/volume-device", "volumeDevices", [{"name": "shm", "devicePath": "/dev/a"}]),
    Case(
        None, "StatefulSet", {"spec.template.spec.containers[0].volumeMounts": [{"name": "data", "mountPath": "/data"}]}
    ),
]

_VOLUMES = [
    Case("pod/volume-name", "RayCluster", {f"{HEAD}.volumes": [{"name": "a_b"}]}),
    Case("pod/volume-name-twice", "Deployment", {"spec.template.spec.volumes": [{"name": "a"}, {"name": "a"}]}),
    _volume("pod/volume-sources", emptyDir={}, configMap={"name": "a"}),
    _volume("pod/volume-path", configMap={"name": "a", "items": [{"key": "k", "path": "/abs"}]}),
    _volume("pod/host-path", hostPath={"path": "/a/../b"}),
    _volume("pod/size-limit", emptyDir={"sizeLimit": "-1"}),
    _volume("pod/downward-source", downwardAPI={"items": [{"path": "a"}]}),
    _volume("pod/field-path", downwardAPI={"items": [{"path": "a", "fieldRef": {"fieldPath": "spec.nodeName"}}]}),
    _volume("pod/projected-source", projected={"sources": [{"secret": {"name": "a"}, "configMap": {"name": "a"}}]}),
    _volume(
        "pod/projected-path-twice",
        projected={
            "sources": [{kind: {"name": "a", "items": [{"key": "k", "path": "p"}]}} for kind in ("secret", "configMap")]
        },
    ),
    _volume(
        "pod/token-expiration", projected={"sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 60}}]}
    ),
    _volume("pod/ephemeral-claim", ephemeral={"volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"]}}}),
    _volume("pod/empty", secret={}),
    _volume("pod/empty", persistentVolumeClaim={"claimName": ""}),
    _volume("pod/object-name", persistentVolumeClaim={"claimName": "A_b"}),
    _volume("pod/minimum", secret={"secretName": "a", "defaultMode": 0o1000}),
    _volume("pod/host-path", nfs={"server": "a", "path": "data"}),
    _volume(None, secret={"secretName": "a", "defaultMode": 0o400, "items": [{"key": "k", "path": "a/b"}]}),
    _volume(None),
]

_SCHEDULING = [
    in_pod("pod/toleration", "tolerations", [{"key": "a", "operator": "Exist"}]),
    in_pod("pod/toleration", "tolerations", [{"effect": "NoSchedule"}]),
    in_pod("pod/toleration", "tolerations", [{"key": "a", "value": "b c"}]),
    in_pod("pod/value", "tolerations", [{"key": "a", "operator": "Exists", "effect": "NoScheduling"}]),
    in_pod(
        "pod/toleration-seconds",
        "tolerations",
        [{"key": "a", "operator": "Exists", "effect": "NoSchedule", "tolerationSeconds": 5}],
    ),
    in_pod("pod/node-terms", "affinity.nodeAffinity", {_REQUIRED: {"nodeSelectorTerms": []}}),
    in_pod("pod/minimum", "affinity.nodeAffinity", {_PREFERRED: [{"weight": 101, "preference": {}}]}),
    in_pod("pod/topology-key", "topologySpreadConstraints", _spread(topologyKey="a b")),
    in_pod("pod/topology-key", "affinity.podAntiAffinity", {_REQUIRED: [{"topologyKey": ""}]}),
    in_pod("pod/spread", "topologySpreadConstraints", _spread(maxSkew=0)),
    in_pod("pod/spread", "topologySpreadConstraints", _spread(whenUnsatisfiable="ScheduleAnyway", minDomains=2)),
    in_pod("pod/value", "topologySpreadConstraints", _spread(whenUnsatisfiable="Never")),
    in_pod("pod/match-label-keys", "topologySpreadConstraints", _spread(matchLabelKeys=["a"])),
    in_pod("pod/selector-label", "nodeSelector", {"a": "b c"}),
    in_pod(
        "pod/selector-operator",
        "topologySpreadConstraints",
        _spread(labelSelector={"matchExpressions": [{**_EXPR, "operator": "Gt"}]}),
    ),
    in_pod(
        "pod/selector-values",
        "topologySpreadConstraints",
        _spread(labelSelector={"matchExpressions": [{**_EXPR, "values": []}]}),
    ),
    in_pod(
        "pod/selector-values",
        "affinity.nodeAffinity",
        {_REQUIRED: {"nodeSelectorTerms": [{"matchExpressions": [{**_EXPR, "operator": "Exists"}]}]}},
    ),
    in_pod(
        None,
        "tolerations",
        [{"operator": "Exists"}, {"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0}],
    ),
    in_pod(
        None,
        "affinity.nodeAffinity",
        {_REQUIRED: {"nodeSelectorTerms": [{"matchExpressions": [{**_EXPR, "operator": "Gt", "values": ["1"]}]}]}},
    ),
]

PODS = [
    Case("pod/label", "RayCluster", {"spec.headGroupSpec.template.metadata.labels": {"a": "b c"}}),
    Case("pod/annotation", "RayCluster", {"spec.headGroupSpec.template.metadata.annotations": {"a b": ""}}),
    Case("pod/group-name", "RayCluster", {"spec.workerGroupSpecs[0].groupName": "gpu_a"}),
    in_pod("pod/name", "serviceAccountName", "A"),
    in_pod("pod/name", "hostname", "a.b"),
    in_pod("pod/ephemeral-container", "ephemeralContainers", [{"name": "debug", "image": "a:1"}]),
    in_pod("pod/dns", "dnsPolicy", "None"),
    in_pod("pod/dns", "dnsConfig.nameservers", ["dns.example"]),
    in_pod("pod/host-alias", "hostAliases", [{"ip": "10.0.0", "hostnames": ["a"]}]),
    Case("pod/shared-processes", "RayCluster", {f"{POD}.hostPID": True, f"{POD}.shareProcessNamespace": True}),
    in_pod("pod/claim-source", "resourceClaims", [{"name": "a"}]),
    Case("pod/restart-policy", "Deployment", {"spec.template.spec.restartPolicy": "Never"}),
    Case("pod/restart-policy", "Job", {"spec.template.spec.restartPolicy": DROP}),
    Case("pod/restart-policy", "CronJob", {"spec.jobTemplate.spec.template.spec.restartPolicy": "Always"}),
    Case(
        "pod/restart-policy",
        "RayJob",
        {"spec.submitterPodTemplate.spec": {"restartPolicy": "Always", "containers": [container("a")]}},
    ),
    Case(None, "RayJob", {"spec.submitterPodTemplate.spec": {"containers": [container("a")]}}),
    Case(None, "RayCluster", {"spec.workerGroupSpecs[0].groupName": "GPU-a"}),
    in_pod(None, "dnsConfig.nameservers", ["10.0.0.10", "fd00::a"]),
]

CASES = [*_MOUNTS, *_VOLUMES, *_SCHEDULING, *PODS]
