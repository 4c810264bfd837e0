"""What Pod validation refuses of containers: resources, names and ports, variables, probes, what they may."""

from __future__ import annotations

from typing import Any

from tests.k8s.cases.bases import APP, HEAD, POD, Case, container, in_pod, in_worker

_GPU = "nvidia.com/gpu"


def _in_worker_pod(rule: str | None, **changes: Any) -> Case:
    """Changes of the worker's Pod by field; those of its container stand under `container`."""
    of_container = changes.pop("container", {})
    pod = {f"{POD}.{field}": value for field, value in changes.items()}
    return Case(rule, "RayCluster", {**pod, **{f"{APP}.{field}": value for field, value in of_container.items()}})


def _resize(name: str, policy: str) -> dict[str, str]:
    return {"resourceName": name, "restartPolicy": policy}


def _claims(rule: str | None, *claims: dict[str, str]) -> Case:
    pod_claims = [{"name": "gpu", "resourceClaimName": "gpu"}]
    return Case(rule, "Pod", {"spec.resourceClaims": pod_claims, "spec.containers[0].resources.claims": [*claims]})


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
    in_worker("pod/resource-name", "resources.limits", {"hugepages-foo": "4Mi", "memory": "24Gi"}),
    in_worker("pod/hugepages-size", "resources.limits", {"hugepages-2Mi": "3Mi", "memory": "24Gi"}),
    _claims("pod/resource-claim", {"name": "gpu"}, {"name": "gpu", "request": "a"}),
    _claims("pod/resource-claim", {"name": "gpu", "request": "A"}),
    _claims(None, {"name": "gpu", "request": "a"}, {"name": "gpu", "request": "b"}),
    in_worker(
        None, "resources", {"limits": {_GPU: 1, "memory": "10240Mi"}, "requests": {"memory": "10Gi", _GPU: "1000m"}}
    ),
    in_worker(None, "resources.requests.ephemeral-storage", "1Gi"),
    in_worker(None, "resources.limits", {"hugepages-2Mi": "4Mi", "memory": "24Gi"}),
    in_worker("pod/resize-policy", "resizePolicy", [_resize("cpu", "NotRequired"), _resize("cpu", "NotRequired")]),
    _in_worker_pod(
        "pod/resize-policy",
        restartPolicy="Never",
        container={"restartPolicy": "Always", "resizePolicy": [_resize("memory", "RestartContainer")]},
    ),
    in_pod(
        "pod/resize-policy",
        "initContainers",
        [container("init", resizePolicy=[_resize("cpu", "RestartContainer")])],
    ),
    in_worker(None, "resizePolicy", [_resize("cpu", "NotRequired"), _resize("memory", "RestartContainer")]),
    in_pod(
        None,
        "initContainers",
        [container("sidecar", restartPolicy="Always", resizePolicy=[_resize("cpu", "RestartContainer")])],
    ),
]

_POD_RESOURCES = [
    in_pod("pod/resources-together", "resources.requests", {"memory": "16Gi"}),
    _in_worker_pod(
        "pod/resources-together",
        resources={"limits": {"memory": "16Gi"}},
        container={"resources": {"limits": {"memory": "24Gi"}, "requests": {"memory": "8Gi"}}},
    ),
    _in_worker_pod(
        "pod/resources-together",
        resources={"requests": {"memory": "24Gi"}},
        initContainers=[container("init", resources={"requests": {"memory": "32Gi"}})],
    ),
    _in_worker_pod(
        "pod/resources-together",
        resources={"limits": {"memory": "32Gi", "hugepages-2Mi": "4Mi"}},
        initContainers=[
            container("sidecar", restartPolicy="Always", resources={"limits": {"hugepages-2Mi": "2Mi", "cpu": "1"}})
        ],
        container={"resources.limits.hugepages-2Mi": "4Mi"},
    ),
    # Without a request of its own, the Pod has what its containers ask for.
    _in_worker_pod(
        "pod/request-above-limit",
        resources={"limits": {"memory": "16Gi"}},
        container={"resources": {"requests": {"memory": "24Gi"}}},
    ),
    _in_worker_pod(
        "pod/resource-claim",
        resourceClaims=[{"name": "gpu", "resourceClaimName": "gpu"}],
        resources={"claims": [{"name": "gpu"}]},
    ),
    in_pod(
        None, "resources", {"requests": {"memory": "24Gi", "cpu": "4"}, "limits": {"memory": "24Gi", "cpu": "8000m"}}
    ),
    _in_worker_pod(
        None,
        resources={"limits": {"memory": "32Gi", "hugepages-2Mi": "6Mi"}},
        initContainers=[
            container("init", resources={"limits": {"hugepages-2Mi": "6Mi", "cpu": "1"}}),
            container("sidecar", restartPolicy="Always", resources={"limits": {"hugepages-2Mi": "2Mi", "cpu": "1"}}),
        ],
        container={"resources.limits.hugepages-2Mi": "4Mi"},
    ),
]

_RULE = {"action": "Restart", "exitCodes": {"operator": "In", "values": [1]}}


def _restart(rule: str | None, *rules: dict[str, Any]) -> Case:
    return _in_worker_pod(rule, container={"restartPolicy": "Never", "restartPolicyRules": [*rules]})


_RESTARTS = [
    in_worker("pod/restart-rules", "restartPolicyRules", [_RULE]),
    in_pod("pod/restart-rules", "initContainers", [container("init", restartPolicyRules=[_RULE])]),
    _restart("pod/restart-rules", {"action": "Restart"}),
    _restart("pod/restart-rules", *[_RULE] * 21),
    _restart("pod/restart-rules", {**_RULE, "exitCodes": {"operator": "In", "values": list(range(256))}}),
    _restart("pod/value", {**_RULE, "action": "Start"}),
    _restart("pod/value", {**_RULE, "exitCodes": {"operator": "Equals", "values": [1]}}),
    in_worker("pod/value", "restartPolicy", ""),
    _restart(None, _RULE, {"action": "RestartAllContainers", "exitCodes": {"operator": "NotIn", "values": []}}),
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
    in_pod(
        "pod/host-port",
        "initContainers",
        [
            container(
                "init",
                ports=[{"containerPort": 80, "hostPort": 81}, {"containerPort": 82, "hostPort": 81, "hostIP": ""}],
            )
        ],
    ),
    in_worker("pod/value", "ports", [{"containerPort": 80, "protocol": "tcp"}]),
    in_worker("pod/value", "imagePullPolicy", "Sometimes"),
    in_pod("pod/value", "restartPolicy", "always"),
    in_pod("pod/value", "dnsPolicy", "None "),
    in_pod("pod/init-container", "initContainers", [container("init", readinessProbe={"tcpSocket": {"port": 80}})]),
    in_pod("pod/minimum", "activeDeadlineSeconds", 0),
    in_pod(
        None,
        "initContainers",
        [container("sidecar", restartPolicy="Always", readinessProbe={"tcpSocket": {"port": 80}})],
    ),
    _in_worker_pod(
        None,
        initContainers=[container("init", ports=[{"containerPort": 80, "hostPort": 81}])],
        container={"ports": [{"containerPort": 80, "hostPort": 81, "protocol": ""}]},
    ),
    in_worker(None, "image", "registry.example/app:1@sha256:" + "0" * 64),
]

_USER = {"runAsNonRoot": True}
_SOMAXCONN = {"name": "net.core.somaxconn", "value": "1024"}


def _in_context(rule: str | None, field: str, value: Any) -> Case:
    return in_worker(rule, f"securityContext.{field}", value)


def _in_pod_context(rule: str | None, field: str, value: Any) -> Case:
    return in_pod(rule, f"securityContext.{field}", value)


_SECURITY = [
    in_worker("pod/escalation", "securityContext", {**_USER, "allowPrivilegeEscalation": False, "privileged": True}),
    _in_context("pod/minimum", "runAsUser", -1),
    _in_pod_context("pod/minimum", "supplementalGroups", [-1]),
    _in_context("pod/proc-mount", "procMount", "Unmasked"),
    _in_context("pod/value", "procMount", ""),
    _in_pod_context("pod/value", "fsGroupChangePolicy", ""),
    _in_pod_context("pod/value", "supplementalGroupsPolicy", "strict"),
    _in_pod_context("pod/value", "seLinuxChangePolicy", "Mount"),
    _in_worker_pod(None, hostUsers=False, container={"securityContext.procMount": "Unmasked"}),
]

_PROFILES = [
    _in_context("pod/value", "seccompProfile", {"type": ""}),
    _in_pod_context("pod/value", "appArmorProfile", {"type": ""}),
    _in_context("pod/profile", "seccompProfile", {"type": "Localhost"}),
    _in_context("pod/profile", "seccompProfile", {"type": "RuntimeDefault", "localhostProfile": ""}),
    _in_context("pod/profile", "seccompProfile", {"type": "Localhost", "localhostProfile": "/abs"}),
    _in_pod_context("pod/profile", "seccompProfile", {"type": "Localhost", "localhostProfile": "../a"}),
    _in_context("pod/profile", "appArmorProfile", {"type": "Localhost", "localhostProfile": ""}),
    _in_context("pod/profile", "appArmorProfile", {"type": "Localhost", "localhostProfile": " a"}),
    _in_context("pod/profile", "appArmorProfile", {"type": "Localhost", "localhostProfile": "a" * 4096}),
    _in_context(None, "seccompProfile", {"type": "Localhost", "localhostProfile": ""}),
    _in_context(None, "appArmorProfile", {"type": "Localhost", "localhostProfile": "a profile"}),
]

_SYSCTLS = [
    _in_pod_context("pod/sysctl", "sysctls", [{"name": "a b", "value": "1"}]),
    _in_pod_context("pod/sysctl", "sysctls", [{"name": "a" * 254, "value": "1"}]),
    _in_pod_context("pod/sysctl", "sysctls", [_SOMAXCONN, _SOMAXCONN]),
    _in_worker_pod("pod/sysctl", hostNetwork=True, securityContext={"sysctls": [_SOMAXCONN]}),
    _in_worker_pod(
        "pod/sysctl",
        hostNetwork=True,
        securityContext={"sysctls": [{"name": "net/ipv4/conf/eno2.100/rp_filter", "value": "1"}]},
    ),
    _in_worker_pod("pod/sysctl", hostIPC=True, securityContext={"sysctls": [{"name": "kernel.shmmax", "value": "1"}]}),
    _in_pod_context(None, "sysctls", [_SOMAXCONN, {"name": "kernel/shm_rmid_forced", "value": "1"}]),
]

_SYSTEMS = [
    _in_worker_pod("pod/operating-system", os={"name": "windows"}, securityContext={"runAsUser": 1}),
    _in_worker_pod("pod/operating-system", os={"name": "windows"}, shareProcessNamespace=False),
    _in_worker_pod(
        "pod/operating-system", os={"name": "windows"}, container={"securityContext.readOnlyRootFilesystem": False}
    ),
    _in_worker_pod("pod/operating-system", os={"name": "linux"}, container={"securityContext.windowsOptions": {}}),
    _in_context("pod/host-process", "windowsOptions", {"hostProcess": True}),
    _in_worker_pod(
        "pod/host-process",
        securityContext={"windowsOptions": {"hostProcess": False}},
        hostNetwork=True,
        container={"securityContext.windowsOptions": {"hostProcess": True}},
    ),
    _in_worker_pod(
        "pod/host-process",
        initContainers=[container("init")],
        hostNetwork=True,
        container={"securityContext.windowsOptions": {"hostProcess": True}},
    ),
    _in_context("pod/windows-options", "windowsOptions", {"runAsUserName": "a\\b\\c"}),
    _in_context("pod/windows-options", "windowsOptions", {"runAsUserName": ". "}),
    _in_pod_context("pod/windows-options", "windowsOptions", {"gmsaCredentialSpec": ""}),
    _in_context("pod/object-name", "windowsOptions", {"gmsaCredentialSpecName": "A_b"}),
    _in_worker_pod(
        None,
        os={"name": "windows"},
        hostPID=False,
        container={"securityContext.windowsOptions": {"runAsUserName": "NT AUTHORITY\\Local service"}},
    ),
    _in_worker_pod(None, os={"name": "linux"}, securityContext={"runAsUser": 1000}),
]


def _variable(rule: str | None, **source: dict[str, Any]) -> Case:
    return in_worker(rule, "env", [{"name": "A", "valueFrom": source}])


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
    _variable("pod/object-name", secretKeyRef={"name": "My_Secret", "key": "a", "optional": True}),
    _variable("pod/object-name", configMapKeyRef={"name": "a-", "key": "a", "optional": True}),
    _variable("pod/field-path", fieldRef={"fieldPath": "metadata.labels['A/b']"}),
    _variable("pod/value", fieldRef={"apiVersion": "v2", "fieldPath": "metadata.name"}),
    _variable("pod/divisor", resourceFieldRef={"resource": "limits.memory", "divisor": "5Mi"}),
    _variable("pod/divisor", resourceFieldRef={"resource": "limits.cpu", "divisor": "100m"}),
    _variable("pod/variable-file", fileKeyRef={"volumeName": "config", "path": "a.env", "key": "A"}),
    _variable("pod/variable-file", fileKeyRef={"volumeName": "shm", "path": "../a.env", "key": "A"}),
    _variable("pod/variable-file", fileKeyRef={"volumeName": "shm", "path": "a.env", "key": "A=B"}),
    _variable(None, fileKeyRef={"volumeName": "shm", "path": "a.env", "key": "A"}),
    _variable(None, fieldRef={"apiVersion": "v1", "fieldPath": "metadata.annotations['A/b']"}),
    _variable(None, fieldRef={"fieldPath": "spec.host"}),
    _variable(None, resourceFieldRef={"resource": "limits.memory", "divisor": "1Mi"}),
    _variable(None, resourceFieldRef={"resource": "requests.hugepages-2Mi", "divisor": "0"}),
    in_worker(None, "envFrom", [{"configMapRef": {"name": "a-", "optional": True}}]),
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

CASES = [
    *(*_RESOURCES, *_POD_RESOURCES, *_CONTAINERS, *_RESTARTS, *_VARIABLES, *_PROBES),
    *(*_SECURITY, *_PROFILES, *_SYSCTLS, *_SYSTEMS),
]
