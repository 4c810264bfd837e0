"""What the operator, the scheduler and the kubelets write while a job starts and ends, in their words."""

from typing import Any

from tests.support.fake_kubernetes import FakeKubernetes, Scene

CLUSTER = "raystill-word-problems-label-abcde"
NO_GPU = (
    "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. no new claims to deallocate, preemption: 0/3 nodes are available: "
    "3 No preemption victims found for incoming pod."
)
QUOTA = (
    'failed to create worker Pod: pods "w-1" is forbidden: exceeded quota: team, requested: requests.nvidia.com/gpu=1, '
    "used: requests.nvidia.com/gpu=4, limited: requests.nvidia.com/gpu=4"
)
NOT_FOUND = (
    'Back-off pulling image "registry.example.com/raystill:1": ErrImagePull: rpc error: code = NotFound desc = failed to pull and unpack '
    'image "registry.example.com/raystill:1": failed to resolve reference "registry.example.com/raystill:1": not found'
)
TIMED_OUT = 'failed to pull image "registry.example.com/raystill:1": dial tcp 10.0.0.9:443: i/o timeout'


def phase(deployment: str, job: str = "", *, message: str = "", reason: str = "", failed: int = 0) -> Scene:
    """KubeRay's status of the job."""
    status: dict[str, Any] = {
        "jobDeploymentStatus": deployment, "jobStatus": job, "rayClusterName": CLUSTER, "message": message, "reason": reason,
        "failed": failed, "startTime": "2026-12-01T10:00:00Z", "jobId": "raystill-abcde",
    }  # fmt: skip

    def scene(server: FakeKubernetes) -> None:
        server.newest("rayjobs")["status"] = status

    return scene


def cluster(*, wanted: int = 1, ready: int = 0, failure: str = "") -> Scene:
    """The status of its RayCluster."""
    conditions = (
        [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreateWorkerPod", "message": failure}]
        if failure
        else []
    )
    status = {"desiredWorkerReplicas": wanted, "readyWorkerReplicas": ready, "conditions": conditions}
    return lambda server: void(server.put("rayclusters", {"metadata": {"name": CLUSTER}, "status": status}))


def pod(
    who: str, *, unscheduled: str = "", waiting: tuple[str, str] | None = None, phase: str = "Pending", name: str = ""
) -> Scene:
    """A pod of the cluster, or the submitter of the job."""
    labels = {"ray.io/cluster": CLUSTER, "ray.io/node-type": who}
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": unscheduled}
    state = {"waiting": dict(zip(("reason", "message"), waiting, strict=True))} if waiting else {"running": {}}
    status = {
        "phase": phase,
        "conditions": [condition] if unscheduled else [],
        "containerStatuses": []
        if unscheduled
        else [{"name": "ray", "image": "registry.example.com/raystill:1", "state": state}],
    }

    def scene(server: FakeKubernetes) -> None:
        own = {"job-name": server.newest("rayjobs")["metadata"]["name"]} if who == "submitter" else labels
        server.put("pods", {"metadata": {"name": name or f"{who}-1", "labels": own}, "status": status})

    return scene


def event(name: str, reason: str, message: str) -> Scene:
    """A warning about an object; an empty name means the job."""

    def scene(server: FakeKubernetes) -> None:
        of = name or server.newest("rayjobs")["metadata"]["name"]
        found = {"metadata": {"name": f"{of}.{reason}"}, "type": "Warning", "reason": reason, "message": message}
        server.put("events", found | {"involvedObject": {"name": of}, "lastTimestamp": "2026-12-01T10:00:01Z"})

    return scene


def log(*lines: str) -> Scene:
    """More of the submitter's log."""

    def scene(server: FakeKubernetes) -> None:
        known = server.logs.setdefault("submitter-1", [])
        known += [f"2026-12-01T10:00:05.{len(known) + number:09d}Z {line}" for number, line in enumerate(lines)]

    return scene


def together(*scenes: Scene) -> Scene:
    """Several at once."""

    def scene(server: FakeKubernetes) -> None:
        for one in scenes:
            one(server)

    return scene


def void(value: object) -> None:
    """Drop a value."""
