"""What Pod validation refuses of containers: resources, names and ports, variables, probes, what they may."""

from __future__ import annotations

from tests.k8s.cases.bases import APP, HEAD, POD, Case, container, in_pod, in_worker

_GPU = "nvidia.com/gpu"

_RESOURCES = [
    in_worker("pod/resource-name", "resources.limits", {"gpu": "1", "memory": "24Gi"}),
    in_worker("pod/resource-name", "resources.limits", {"a b": "1", "memory": "24Gi"}),
    in_worker("pod/resource-amount", "resources", {"limits": {"cpu": "-1", "memory": "24Gi"}, "requests": {}}),
    in_worker("pod/resource-whole", "resources", {"limits": {_GPU: "0.5", "memory": "24Gi"}}),
    in_worker("pod/request-above-limit", "resources.limits.cpu", "3900m"),
    in_worker("pod/request-above-limit", "resources.requests.memory", "24.5Gi"),
    in_worker("pod/request-not-limit", "resources", {"limits": {_GPU: "2", "memory": "1Gi"}, "requests": {_GPU: "1"}}),
    in_worker("pod/request-without-limit", "resources", {"limits": {"memory": "1Gi"}, "requests": {_GPU: 1}}),
    in_worker("pod/request-without-limit", "resources.requests.hugepages-2Mi", "2Mi"),
    Case(
        "pod/hugepages-alone",
        "Deployment",
        {"spec.template.spec.containers[0].resources": {"limits": {"hugepages-2Mi": "2Mi"}}},
    ),
    in_worker("pod/resource-claim", "resources.claims", [{"name": "gpu"}]),
    in_pod("pod/resource-name", "resources", {"limits": {_GPU: "1"}}),
    in_worker(
        None, "resources", {"limits": {_GPU: 1, "memory": "10240Mi"}, "requests": {"memory": "10Gi", _GPU: "1000m"}}
    ),
    in_worker(None, "resources.requests.ephemeral-storage", "1Gi"),
]

_CONTAINERS = [
    Case("pod/no-container", "RayCluster", {f"{HEAD}.containers": []}),
    in_worker("pod/container-name", "name", "Ray"),
    Case("pod/container-name", "Pod", {"spec.containers[0].name": "a.b"}),
    in_pod("pod/container-name-twice", "initContainers", [container("ray-worker")]),
    in_worker("pod/empty", "image", ""),
    in_worker("pod/image", "image", "registry.example/app:1 "),
    in_worker("pod/port-range", "ports", [{"containerPort": 0}]),
    in_worker("pod/port-range", "ports", [{"containerPort": 80, "hostPort": 65536}]),
    in_worker("pod/port-name", "ports", [{"containerPort": 80, "name": "Metrics"}]),
    in_worker("pod/port-name", "ports", [{"containerPort": 80, "name": "a-name-of-sixteen"}]),
    in_worker("pod/port-name-twice", "ports", [{"containerPort": 80, "name": "a"}, {"containerPort": 81, "name": "a"}]),
    in_worker("pod/host-port", "ports", [{"containerPort": 80, "hostPort": 81}, {"containerPort": 82, "hostPort": 81}]),
    Case(
        "pod/host-port",
        "RayCluster",
        {f"{POD}.hostNetwork": True, f"{APP}.ports": [{"containerPort": 80, "hostPort": 81}]},
    ),
    in_worker("pod/value", "ports", [{"containerPort": 80, "protocol": "tcp"}]),
    in_worker("pod/value", "imagePullPolicy", "Sometimes"),
    in_pod("pod/value", "restartPolicy", "always"),
    in_pod("pod/value", "dnsPolicy", "None "),
    in_pod("pod/init-container", "initContainers", [container("init", readinessProbe={"tcpSocket": {"port": 80}})]),
    in_worker(
        "pod/escalation",
        "securityContext",
        {"runAsNonRoot": True, "allowPrivilegeEscalation": False, "privileged": True},
    ),
    in_worker("pod/profile", "securityContext.seccompProfile", {"type": "Localhost"}),
    in_worker("pod/minimum", "securityContext.runAsUser", -1),
    in_pod("pod/minimum", "activeDeadlineSeconds", 0),
    in_pod(
        None,
        "initContainers",
        [container("sidecar", restartPolicy="Always", readinessProbe={"tcpSocket": {"port": 80}})],
    ),
    in_worker(None, "image", "registry.example/app:1@sha256:" + "0" * 64),
]

_VARIABLES = [
    in_worker("pod/variable-name", "env", [{"name": "A=B", "value": "1"}]),
    in_worker("pod/variable-name", "env", [{"name": "", "value": "1"}]),
    in_worker(
        "pod/variable-value-twice",
        "env",
        [{"name": "A", "value": "1", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
    ),
    in_worker("pod/variable-source", "env", [{"name": "A", "valueFrom": {}}]),
    in_worker("pod/variable-source", "envFrom", [{"prefix": "A_"}]),
    in_worker("pod/field-path", "env", [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.name"}}}]),
    in_worker("pod/field-path", "env", [{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "memory"}}}]),
    in_worker(
        "pod/config-key",
        "env",
        [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "a", "key": "a/b", "optional": True}}}],
    ),
    in_worker("pod/empty", "env", [{"name": "A", "valueFrom": {"secretKeyRef": {"key": "a", "optional": True}}}]),
    in_worker("pod/object-name", "envFrom", [{"secretRef": {"name": "A_b", "optional": True}}]),
    in_worker(
        None,
        "env",
        [
            {"name": "a.b-c", "value": ""},
            {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a/b']"}}},
        ],
    ),
]

_PROBES = [
    in_worker("pod/handler", "livenessProbe", {"periodSeconds": 5}),
    in_worker("pod/handler", "livenessProbe", {"exec": {"command": ["a"]}, "httpGet": {"port": 80}}),
    in_worker("pod/handler", "lifecycle.preStop", {}),
    in_worker("pod/command", "livenessProbe", {"exec": {}}),
    in_worker("pod/handler-port", "livenessProbe", {"tcpSocket": {"port": 0}}),
    in_worker("pod/handler-port", "livenessProbe", {"httpGet": {"port": "Metrics"}}),
    in_worker("pod/success-threshold", "livenessProbe", {"tcpSocket": {"port": 80}, "successThreshold": 2}),
    in_worker("pod/readiness-grace", "readinessProbe", {"tcpSocket": {"port": 80}, "terminationGracePeriodSeconds": 5}),
    in_worker(
        "pod/http-header", "livenessProbe", {"httpGet": {"port": 80, "httpHeaders": [{"name": "a b", "value": ""}]}}
    ),
    in_worker("pod/sleep", "lifecycle.preStop", {"sleep": {"seconds": 31}}),
    in_worker("pod/minimum", "startupProbe", {"tcpSocket": {"port": 80}, "failureThreshold": -1}),
    in_worker("pod/minimum", "startupProbe", {"tcpSocket": {"port": 80}, "terminationGracePeriodSeconds": 0}),
    Case(
        None,
        "RayCluster",
        {f"{APP}.lifecycle.preStop": {"sleep": {"seconds": 90}}, f"{POD}.terminationGracePeriodSeconds": 120},
    ),
    in_worker(None, "readinessProbe", {"grpc": {"port": 80}, "successThreshold": 2, "timeoutSeconds": 0}),
]

CASES = [*_RESOURCES, *_CONTAINERS, *_VARIABLES, *_PROBES]
