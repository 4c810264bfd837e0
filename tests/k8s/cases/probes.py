"""What Pod validation refuses of probes and lifecycle hooks."""

from __future__ import annotations

from tests.k8s.cases.bases import APP, POD, Case, in_worker

CASES = [
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
