"""What Pod validation refuses of containers: names, images, ports, restarts."""

from __future__ import annotations

from typing import Any

from tests.k8s.cases.bases import APP, HEAD, POD, Case, container, in_pod, in_worker, in_worker_pod

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
    in_worker_pod(
        None,
        initContainers=[container("init", ports=[{"containerPort": 80, "hostPort": 81}])],
        container={"ports": [{"containerPort": 80, "hostPort": 81, "protocol": ""}]},
    ),
    in_worker(None, "image", "registry.example/app:1@sha256:" + "0" * 64),
]

_RULE = {"action": "Restart", "exitCodes": {"operator": "In", "values": [1]}}


def _restart(rule: str | None, *rules: dict[str, Any]) -> Case:
    return in_worker_pod(rule, container={"restartPolicy": "Never", "restartPolicyRules": [*rules]})


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

CASES = [*_CONTAINERS, *_RESTARTS]
