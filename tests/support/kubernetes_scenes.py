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
    status = {"jobDeploymentStatus": deployment, "jobStatus": job, "rayClusterName": CLUSTER}
    return lambda server: server.all("rayjobs")[-1].update(status={**status, "message": message, "reason": reason})


def cluster(wanted: int = 1, ready: int = 0, failure: str = "") -> Scene:
    condition = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreateWorkerPod", "message": failure}
    status = {"desiredWorkerReplicas": wanted, "readyWorkerReplicas": ready, "conditions": [condition] * bool(failure)}
    spec = {"headGroupSpec": {"template": {"metadata": {"labels": {"raystill.io/node": "head"}}}}}
    return lambda server: server.put("rayclusters", {"metadata": {"name": CLUSTER}, "spec": spec, "status": status})


def pod(
    who: str, *, unscheduled: str = "", waiting: tuple[str, str] | None = None, name: str = "", ended: Any = None
) -> Scene:
    """It runs, unless it says why not."""
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": unscheduled}
    state: dict[str, Any] = {"waiting": {"reason": waiting[0], "message": waiting[1]}} if waiting else {"running": {}}
    container = {"image": "registry.example.com/raystill:1", "state": state}
    status: dict[str, Any] = {"conditions": [condition]} if unscheduled else {"containerStatuses": [container]}
    status |= {"phase": "Pending" if unscheduled or waiting else "Running"}
    container["lastState"] = {"terminated": ended}

    def scene(server: FakeKubernetes) -> None:
        of_cluster = {"ray.io/cluster": CLUSTER, "ray.io/node-type": who, "raystill.io/node": who}
        of_job = {"job-name": server.all("rayjobs")[-1]["metadata"]["name"]}
        metadata = {"name": name or f"{who}-1", "labels": of_job if who == "submitter" else of_cluster}
        server.put("pods", {"metadata": metadata, "spec": {"containers": [{"name": "ray"}]}, "status": status})

    return scene


def warning(message: str, name: str = "", kind: str = "Pod") -> Scene:
    """Without a name: about the job."""

    def scene(server: FakeKubernetes) -> None:
        of = {"kind": kind, "name": name or server.all("rayjobs")[-1]["metadata"]["name"]}
        server.put("events", {"metadata": {"name": f"{name}.1"}, "involvedObject": of, "message": message})

    return scene


def log(*lines: str) -> Scene:
    """The job runs, and its submitter writes."""

    def scene(server: FakeKubernetes) -> None:
        together(phase("Running", "RUNNING"), cluster(ready=1), pod("submitter"))(server)
        known = server.logs.setdefault("submitter-1", [])
        known += [f"2026-12-01T10:00:05.{len(known) + number:09d}Z {line}" for number, line in enumerate(lines)]

    return scene


def together(*scenes: Scene) -> Scene:
    return lambda server: [scene(server) for scene in scenes]
