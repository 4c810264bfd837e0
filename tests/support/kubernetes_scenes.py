"""What operator, scheduler and kubelets write while a job starts and ends, in their words."""

from typing import Any

from tests.support.fake_kubernetes import FakeKubernetes, Scene

CLUSTER = "raystill-word-problems-label-abcde"
NO_GPU = (
    "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: 0/3 nodes are available: 3 No victims found."
)
QUOTA = 'pods "w-1" is forbidden: exceeded quota: team, requested: requests.nvidia.com/gpu=1, limited: requests.nvidia.com/gpu=4'
NOT_FOUND = 'Back-off pulling image "registry.example.com/raystill:1": failed to resolve reference: not found'
TIMED_OUT = "failed to pull image: dial tcp 10.0.0.9:443: i/o timeout"


def phase(deployment: str, job: str = "", message: str = "", reason: str = "") -> Scene:
    """KubeRay's status of the job."""
    status = {"jobDeploymentStatus": deployment, "jobStatus": job, "rayClusterName": CLUSTER}
    return lambda server: server.all("rayjobs")[-1].update(status={**status, "message": message, "reason": reason})


def cluster(wanted: int = 1, ready: int = 0, failure: str = "") -> Scene:
    """Its RayCluster."""
    condition = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreateWorkerPod", "message": failure}
    conditions = [condition] if failure else []
    status = {"desiredWorkerReplicas": wanted, "readyWorkerReplicas": ready, "conditions": conditions}
    head = {"template": {"metadata": {"labels": {"raystill.io/node": "head"}}}}
    found = {"metadata": {"name": CLUSTER}, "spec": {"headGroupSpec": head}, "status": status}
    return lambda server: void(server.put("rayclusters", found))


def pod(who: str, *, unscheduled: str = "", waiting: tuple[str, str] | None = None, name: str = "") -> Scene:
    """A pod of the cluster, or the job's submitter. It runs, unless it says why not."""
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": unscheduled}
    state: dict[str, Any] = {"waiting": {"reason": waiting[0], "message": waiting[1]}} if waiting else {"running": {}}
    status = {
        "phase": "Pending" if unscheduled or waiting else "Running",
        "conditions": [condition] if unscheduled else [],
        "containerStatuses": [] if unscheduled else [{"image": "registry.example.com/raystill:1", "state": state}],
    }

    def scene(server: FakeKubernetes) -> None:
        job = server.all("rayjobs")[-1]["metadata"]["name"]
        of_cluster = {"ray.io/cluster": CLUSTER, "ray.io/node-type": who, "raystill.io/node": who}
        labels = {"job-name": job} if who == "submitter" else of_cluster
        server.put("pods", {"metadata": {"name": name or f"{who}-1", "labels": labels}, "status": status})

    return scene


def mount_failure(message: str) -> Scene:
    """A warning about the head's pod."""
    event = {"type": "Warning", "reason": "FailedMount", "message": message, "involvedObject": {"name": "head-1"}}
    return lambda server: void(server.put("events", {"metadata": {"name": "head-1.1"}, **event}))


def log(*lines: str) -> Scene:
    """The job runs, and its submitter writes."""

    def scene(server: FakeKubernetes) -> None:
        together(phase("Running", "RUNNING"), cluster(ready=1), pod("submitter"))(server)
        known = server.logs.setdefault("submitter-1", [])
        known += [f"2026-12-01T10:00:05.{len(known) + number:09d}Z {line}" for number, line in enumerate(lines)]

    return scene


def together(*scenes: Scene) -> Scene:
    """Several at once."""
    return lambda server: void([scene(server) for scene in scenes])


def void(value: object) -> None:
    """Drop a value."""
