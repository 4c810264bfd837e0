"""What Pod validation refuses in the templates of custom resources and workloads."""

from __future__ import annotations

from typing import Any

from tests.k8s.cases.bases import DROP, Case

_POD = "spec.workerGroupSpecs[0].template.spec"
_APP = f"{_POD}.containers[0]"
_HEAD = "spec.headGroupSpec.template.spec"
_GPU = "nvidia.com/gpu"
_EXPR = {"key": "a", "operator": "In", "values": ["b"]}
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def _worker(rule: str | None, field: str, value: Any, base: str = "RayCluster") -> Case:
    return Case(rule, base, {f"{_APP}.{field}": value})


def _pod(rule: str | None, field: str, value: Any) -> Case:
    return Case(rule, "RayCluster", {f"{_POD}.{field}": value})


def _volume(rule: str | None, **source: Any) -> Case:
    volumes = [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}}, {"name": "extra", **source}]
    return Case(
        rule,
        "RayCluster",
        {f"{_POD}.volumes": volumes},
        {"externals": ["Secret/a", "ConfigMap/a", "PersistentVolumeClaim/A_b"]},
    )


def _spread(**more: Any) -> list[dict[str, Any]]:
    return [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule", **more}]


def _container(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "image": "registry.example/init:1", "securityContext": {"runAsNonRoot": True}, **more}


_RESOURCES = [
    _worker("pod/resource-name", "resources.limits", {"gpu": "1", "memory": "24Gi"}),
    _worker("pod/resource-name", "resources.limits", {"a b": "1", "memory": "24Gi"}),
    _worker("pod/resource-amount", "resources", {"limits": {"cpu": "-1", "memory": "24Gi"}, "requests": {}}),
    _worker("pod/resource-whole", "resources", {"limits": {_GPU: "0.5", "memory": "24Gi"}}),
    _worker("pod/request-above-limit", "resources.limits.cpu", "3900m"),
    _worker("pod/request-above-limit", "resources.requests.memory", "24.5Gi"),
    _worker("pod/request-not-limit", "resources", {"limits": {_GPU: "2", "memory": "1Gi"}, "requests": {_GPU: "1"}}),
    _worker("pod/request-without-limit", "resources", {"limits": {"memory": "1Gi"}, "requests": {_GPU: 1}}),
    _worker("pod/request-without-limit", "resources.requests.hugepages-2Mi", "2Mi"),
    Case(
        "pod/hugepages-alone",
        "Deployment",
        {"spec.template.spec.containers[0].resources": {"limits": {"hugepages-2Mi": "2Mi"}}},
    ),
    _worker("pod/resource-claim", "resources.claims", [{"name": "gpu"}]),
    _pod("pod/resource-name", "resources", {"limits": {_GPU: "1"}}),
    _worker(
        None, "resources", {"limits": {_GPU: 1, "memory": "10240Mi"}, "requests": {"memory": "10Gi", _GPU: "1000m"}}
    ),
    _worker(None, "resources.requests.ephemeral-storage", "1Gi"),
]

_CONTAINERS = [
    Case("pod/no-container", "RayCluster", {f"{_HEAD}.containers": []}),
    _worker("pod/container-name", "name", "Ray"),
    Case("pod/container-name", "Pod", {"spec.containers[0].name": "a.b"}),
    _pod("pod/container-name-twice", "initContainers", [_container("ray-worker")]),
    _worker("pod/empty", "image", ""),
    _worker("pod/image", "image", "registry.example/app:1 "),
    _worker("pod/port-range", "ports", [{"containerPort": 0}]),
    _worker("pod/port-range", "ports", [{"containerPort": 80, "hostPort": 65536}]),
    _worker("pod/port-name", "ports", [{"containerPort": 80, "name": "Metrics"}]),
    _worker("pod/port-name", "ports", [{"containerPort": 80, "name": "a-name-of-sixteen"}]),
    _worker("pod/port-name-twice", "ports", [{"containerPort": 80, "name": "a"}, {"containerPort": 81, "name": "a"}]),
    _worker("pod/host-port", "ports", [{"containerPort": 80, "hostPort": 81}, {"containerPort": 82, "hostPort": 81}]),
    Case(
        "pod/host-port",
        "RayCluster",
        {f"{_POD}.hostNetwork": True, f"{_APP}.ports": [{"containerPort": 80, "hostPort": 81}]},
    ),
    _worker("pod/value", "ports", [{"containerPort": 80, "protocol": "tcp"}]),
    _worker("pod/value", "imagePullPolicy", "Sometimes"),
    _pod("pod/value", "restartPolicy", "always"),
    _pod("pod/value", "dnsPolicy", "None "),
    _pod("pod/init-container", "initContainers", [_container("init", readinessProbe={"tcpSocket": {"port": 80}})]),
    _worker(
        "pod/escalation",
        "securityContext",
        {"runAsNonRoot": True, "allowPrivilegeEscalation": False, "privileged": True},
    ),
    _worker("pod/profile", "securityContext.seccompProfile", {"type": "Localhost"}),
    _worker("pod/minimum", "securityContext.runAsUser", -1),
    _pod("pod/minimum", "activeDeadlineSeconds", 0),
    _pod(
        None,
        "initContainers",
        [_container("sidecar", restartPolicy="Always", readinessProbe={"tcpSocket": {"port": 80}})],
    ),
    _worker(None, "image", "registry.example/app:1@sha256:" + "0" * 64),
]

_VARIABLES = [
    _worker("pod/variable-name", "env", [{"name": "A=B", "value": "1"}]),
    _worker("pod/variable-name", "env", [{"name": "", "value": "1"}]),
    _worker(
        "pod/variable-value-twice",
        "env",
        [{"name": "A", "value": "1", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
    ),
    _worker("pod/variable-source", "env", [{"name": "A", "valueFrom": {}}]),
    _worker("pod/variable-source", "envFrom", [{"prefix": "A_"}]),
    _worker("pod/field-path", "env", [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.name"}}}]),
    _worker("pod/field-path", "env", [{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "memory"}}}]),
    _worker(
        "pod/config-key",
        "env",
        [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "a", "key": "a/b", "optional": True}}}],
    ),
    _worker("pod/empty", "env", [{"name": "A", "valueFrom": {"secretKeyRef": {"key": "a", "optional": True}}}]),
    _worker("pod/object-name", "envFrom", [{"secretRef": {"name": "A_b", "optional": True}}]),
    _worker(
        None,
        "env",
        [
            {"name": "a.b-c", "value": ""},
            {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a/b']"}}},
        ],
    ),
]

_PROBES = [
    _worker("pod/handler", "livenessProbe", {"periodSeconds": 5}),
    _worker("pod/handler", "livenessProbe", {"exec": {"command": ["a"]}, "httpGet": {"port": 80}}),
    _worker("pod/handler", "lifecycle.preStop", {}),
    _worker("pod/command", "livenessProbe", {"exec": {}}),
    _worker("pod/handler-port", "livenessProbe", {"tcpSocket": {"port": 0}}),
    _worker("pod/handler-port", "livenessProbe", {"httpGet": {"port": "Metrics"}}),
    _worker("pod/success-threshold", "livenessProbe", {"tcpSocket": {"port": 80}, "successThreshold": 2}),
    _worker("pod/readiness-grace", "readinessProbe", {"tcpSocket": {"port": 80}, "terminationGracePeriodSeconds": 5}),
    _worker(
        "pod/http-header", "livenessProbe", {"httpGet": {"port": 80, "httpHeaders": [{"name": "a b", "value": ""}]}}
    ),
    _worker("pod/sleep", "lifecycle.preStop", {"sleep": {"seconds": 31}}),
    _worker("pod/minimum", "startupProbe", {"tcpSocket": {"port": 80}, "failureThreshold": -1}),
    _worker("pod/minimum", "startupProbe", {"tcpSocket": {"port": 80}, "terminationGracePeriodSeconds": 0}),
    Case(
        None,
        "RayCluster",
        {f"{_APP}.lifecycle.preStop": {"sleep": {"seconds": 90}}, f"{_POD}.terminationGracePeriodSeconds": 120},
    ),
    _worker(None, "readinessProbe", {"grpc": {"port": 80}, "successThreshold": 2, "timeoutSeconds": 0}),
]

_MOUNTS = [
    _worker("pod/mount-without-volume", "volumeMounts", [{"name": "data", "mountPath": "/data"}]),
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
    _worker("pod/sub-path", "volumeMounts", [{"name": "shm", "mountPath": "/a", "subPath": "../b"}]),
    _worker("pod/sub-path", "volumeMounts", [{"name": "shm", "mountPath": "/a", "subPath": "b", "subPathExpr": "c"}]),
    _worker(
        "pod/mount-propagation",
        "volumeMounts",
        [{"name": "shm", "mountPath": "/a", "mountPropagation": "Bidirectional"}],
    ),
    _worker(
        "pod/recursive-read-only", "volumeMounts", [{"name": "shm", "mountPath": "/a", "recursiveReadOnly": "Enabled"}]
    ),
    _worker("pod/volume-device", "volumeDevices", [{"name": "shm", "devicePath": "/dev/a"}]),
    Case(
        None, "StatefulSet", {"spec.template.spec.containers[0].volumeMounts": [{"name": "data", "mountPath": "/data"}]}
    ),
]

_VOLUMES = [
    Case("pod/volume-name", "RayCluster", {f"{_HEAD}.volumes": [{"name": "a_b"}]}),
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
    _pod("pod/toleration", "tolerations", [{"key": "a", "operator": "Exist"}]),
    _pod("pod/toleration", "tolerations", [{"effect": "NoSchedule"}]),
    _pod("pod/toleration", "tolerations", [{"key": "a", "value": "b c"}]),
    _pod("pod/value", "tolerations", [{"key": "a", "operator": "Exists", "effect": "NoScheduling"}]),
    _pod(
        "pod/toleration-seconds",
        "tolerations",
        [{"key": "a", "operator": "Exists", "effect": "NoSchedule", "tolerationSeconds": 5}],
    ),
    _pod("pod/node-terms", "affinity.nodeAffinity", {_REQUIRED: {"nodeSelectorTerms": []}}),
    _pod("pod/minimum", "affinity.nodeAffinity", {_PREFERRED: [{"weight": 101, "preference": {}}]}),
    _pod("pod/topology-key", "topologySpreadConstraints", _spread(topologyKey="a b")),
    _pod("pod/topology-key", "affinity.podAntiAffinity", {_REQUIRED: [{"topologyKey": ""}]}),
    _pod("pod/spread", "topologySpreadConstraints", _spread(maxSkew=0)),
    _pod("pod/spread", "topologySpreadConstraints", _spread(whenUnsatisfiable="ScheduleAnyway", minDomains=2)),
    _pod("pod/value", "topologySpreadConstraints", _spread(whenUnsatisfiable="Never")),
    _pod("pod/match-label-keys", "topologySpreadConstraints", _spread(matchLabelKeys=["a"])),
    _pod("pod/selector-label", "nodeSelector", {"a": "b c"}),
    _pod(
        "pod/selector-operator",
        "topologySpreadConstraints",
        _spread(labelSelector={"matchExpressions": [{**_EXPR, "operator": "Gt"}]}),
    ),
    _pod(
        "pod/selector-values",
        "topologySpreadConstraints",
        _spread(labelSelector={"matchExpressions": [{**_EXPR, "values": []}]}),
    ),
    _pod(
        "pod/selector-values",
        "affinity.nodeAffinity",
        {_REQUIRED: {"nodeSelectorTerms": [{"matchExpressions": [{**_EXPR, "operator": "Exists"}]}]}},
    ),
    _pod(
        None,
        "tolerations",
        [{"operator": "Exists"}, {"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0}],
    ),
    _pod(
        None,
        "affinity.nodeAffinity",
        {_REQUIRED: {"nodeSelectorTerms": [{"matchExpressions": [{**_EXPR, "operator": "Gt", "values": ["1"]}]}]}},
    ),
]

_PODS = [
    Case("pod/label", "RayCluster", {"spec.headGroupSpec.template.metadata.labels": {"a": "b c"}}),
    Case("pod/annotation", "RayCluster", {"spec.headGroupSpec.template.metadata.annotations": {"a b": ""}}),
    Case("pod/group-name", "RayCluster", {"spec.workerGroupSpecs[0].groupName": "gpu_a"}),
    _pod("pod/name", "serviceAccountName", "A"),
    _pod("pod/name", "hostname", "a.b"),
    _pod("pod/ephemeral-container", "ephemeralContainers", [{"name": "debug", "image": "a:1"}]),
    _pod("pod/dns", "dnsPolicy", "None"),
    _pod("pod/dns", "dnsConfig.nameservers", ["dns.example"]),
    _pod("pod/host-alias", "hostAliases", [{"ip": "10.0.0", "hostnames": ["a"]}]),
    Case("pod/shared-processes", "RayCluster", {f"{_POD}.hostPID": True, f"{_POD}.shareProcessNamespace": True}),
    _pod("pod/claim-source", "resourceClaims", [{"name": "a"}]),
    Case("pod/restart-policy", "Deployment", {"spec.template.spec.restartPolicy": "Never"}),
    Case("pod/restart-policy", "Job", {"spec.template.spec.restartPolicy": DROP}),
    Case("pod/restart-policy", "CronJob", {"spec.jobTemplate.spec.template.spec.restartPolicy": "Always"}),
    Case(
        "pod/restart-policy",
        "RayJob",
        {"spec.submitterPodTemplate.spec": {"restartPolicy": "Always", "containers": [_container("a")]}},
    ),
    Case(None, "RayJob", {"spec.submitterPodTemplate.spec": {"containers": [_container("a")]}}),
    Case(None, "RayCluster", {"spec.workerGroupSpecs[0].groupName": "GPU-a"}),
    _pod(None, "dnsConfig.nameservers", ["10.0.0.10", "fd00::a"]),
]

CASES = [*_RESOURCES, *_CONTAINERS, *_VARIABLES, *_PROBES, *_MOUNTS, *_VOLUMES, *_SCHEDULING, *_PODS]
