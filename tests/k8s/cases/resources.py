"""What Pod validation refuses of resources, of a container's and of a whole Pod's."""

from __future__ import annotations

from tests.k8s.cases.bases import Case, container, in_pod, in_worker, in_worker_pod

_GPU = "nvidia.com/gpu"


def _resize(name: str, policy: str) -> dict[str, str]:
    return {"resourceName": name, "restartPolicy": policy}


def _claims(rule: str | None, *claims: dict[str, str]) -> Case:
    pod_claims = [{"name": "gpu", "resourceClaimName": "gpu"}]
    return Case(rule, "Pod", {"spec.resourceClaims": pod_claims, "spec.containers[0].resources.claims": [*claims]})


_RESOURCES = [
    in_worker("pod/resource-name", "resources.limits", {"gpu": "1", "memory": "24Gi"}),
    in_worker("pod/resource-name", "resources.limits", {"a b": "1", "memory": "24Gi"}),
    in_worker("pod/resource-amount", "resources", {"limits": {"cpu": "-1", "memory": "24Gi"}, "requests": {}}),
    in_worker("pod/resource-amount", "resources.limits", {"memory": "1e99999999999999999999"}),
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
    in_worker_pod(
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
    in_worker_pod(
        "pod/resources-together",
        resources={"limits": {"memory": "16Gi"}},
        container={"resources": {"limits": {"memory": "24Gi"}, "requests": {"memory": "8Gi"}}},
    ),
    in_worker_pod(
        "pod/resources-together",
        resources={"requests": {"memory": "24Gi"}},
        initContainers=[container("init", resources={"requests": {"memory": "32Gi"}})],
    ),
    in_worker_pod(
        "pod/resources-together",
        resources={"limits": {"memory": "32Gi", "hugepages-2Mi": "4Mi"}},
        initContainers=[
            container("sidecar", restartPolicy="Always", resources={"limits": {"hugepages-2Mi": "2Mi", "cpu": "1"}})
        ],
        container={"resources.limits.hugepages-2Mi": "4Mi"},
    ),
    # Without a request of its own, the Pod has what its containers ask for.
    in_worker_pod(
        "pod/request-above-limit",
        resources={"limits": {"memory": "16Gi"}},
        container={"resources": {"requests": {"memory": "24Gi"}}},
    ),
    in_worker_pod(
        "pod/resource-claim",
        resourceClaims=[{"name": "gpu", "resourceClaimName": "gpu"}],
        resources={"claims": [{"name": "gpu"}]},
    ),
    in_pod(
        None, "resources", {"requests": {"memory": "24Gi", "cpu": "4"}, "limits": {"memory": "24Gi", "cpu": "8000m"}}
    ),
    in_worker_pod(
        None,
        resources={"limits": {"memory": "32Gi", "hugepages-2Mi": "6Mi"}},
        initContainers=[
            container("init", resources={"limits": {"hugepages-2Mi": "6Mi", "cpu": "1"}}),
            container("sidecar", restartPolicy="Always", resources={"limits": {"hugepages-2Mi": "2Mi", "cpu": "1"}}),
        ],
        container={"resources.limits.hugepages-2Mi": "4Mi"},
    ),
]

CASES = [*_RESOURCES, *_POD_RESOURCES]
