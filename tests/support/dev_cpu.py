"""The overlay dev-cpu as tests rehearse it: its clusters, its volumes with tiny models, and its jobs on a small run."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from pipelines.config.load import parse_run
from tests.support.k8s.kuberay_pods import TOKEN_KEY, RayPods
from tests.support.k8s.namespaces import Node
from tests.support.k8s.pod_files import Volumes
from tests.support.k8s.rendering import K8S, named, render
from tests.support.pod_clusters import Cluster
from tests.support.tiny_runs import make_model, make_subword_tokenizer
from tests.support.tiny_students import write_student

OVERLAY = K8S / "overlays" / "dev-cpu"
OUTPUT = Path("runs", "word-problems")
"""On the volume `raystill-data`."""
ARTIFACTS = {"label": "labels", "train": "student", "evaluate": "report"}
"""Stage -> folder of its artifact."""
TOKEN = "a-token-of-this-rehearsal-and-of-nothing-else"
ROWS = 40
USER = 1000
_HEADS = {"students": 2, "label": 22, "train": 42, "evaluate": 62}
"""Number of each cluster's head in the network. Its workers follow."""
_JOB_S = 200.0


@contextmanager
def dev_cpu(folder: Path, image: Path | None = None) -> Iterator[Node]:
    """A network for the overlay's pods, with the volumes, ConfigMaps and Secrets that they mount.

    `folder / "data"` is the volume `raystill-data`. The student of the overlay's endpoint is an encoder-decoder: its engine starts
    within seconds.
    """
    data, models = folder / "data", folder / "models"
    write_student(data / OUTPUT / "student", "encoder-decoder")
    for path in (data, *data.rglob("*")):  # as Kubernetes does for fsGroup
        os.chown(path, USER, USER)
    make_model("decoder-only", models / "SmolLM2-135M-Instruct", positions=512, tokenizer=make_subword_tokenizer("bpe"))
    for file in models.rglob("*.safetensors"):  # written for their owner only
        file.chmod(0o644)
    clusters = {part: pods_of(part) for part in _HEADS}
    maps = {o["metadata"]["name"]: o["data"] for o in render(OVERLAY / "label") if o["kind"] == "ConfigMap"}
    volumes = Volumes(
        claims={"raystill-models": models, "raystill-data": data},
        config_maps={name: {file: small_run(text) for file, text in files.items()} for name, files in maps.items()},
        secrets={pods.cluster: {TOKEN_KEY: TOKEN} for pods in clusters.values()},
        image=image,
    )
    hosts = {clusters[part].head_host: number for part, number in _HEADS.items()}
    with Node(folder / "pods", volumes, hosts) as node:
        yield node


def pods_of(part: str) -> RayPods:
    """Pods of the overlay's RayService (`students`) or of one of its RayJobs."""
    if part == "students":
        return RayPods(named(render(OVERLAY), "RayService", "raystill-students"))
    return RayPods(named(render(OVERLAY / part), "RayJob", f"raystill-{part}"))


def cluster_of(part: str, node: Node) -> Cluster:
    """The started cluster of a part, with its initial workers."""
    pods = pods_of(part)
    cluster = Cluster(pods, node, _HEADS[part], TOKEN)
    cluster.start(pods.initial_workers)
    return cluster


def run_job(stage: str, node: Node, data: Path) -> None:
    """Run a RayJob on its own cluster, from its submitter's start until its idle workers have ended.

    It kills all other pods first: two cores have no room for two clusters.
    """
    for pod in node.pods:
        pod.kill()
    cluster = cluster_of(stage, node)
    submitter = node.start(cluster.pods.submitter(), _HEADS[stage] + 10)
    cluster.wait(submitter.has_ended, "the job has ended", _JOB_S)
    assert submitter.process.returncode == 0, submitter.tail()
    (job,) = cluster.request("GET", "/api/jobs/").json()
    assert (job["submission_id"], job["status"]) == (cluster.pods.job_id, "SUCCEEDED"), f"{job}\n{submitter.tail()}"
    artifact = data / OUTPUT / ARTIFACTS[stage] / "manifest.json"
    assert artifact.stat().st_uid == USER
    for worker in cluster.workers:
        worker.terminate()
    for worker in cluster.workers:
        cluster.wait(worker.has_ended, f"{worker.name} has ended", worker.grace_s)


def small_run(text: str) -> str:
    """The overlay's run file with few rows, an echo teacher and a student of a few thousand parameters."""
    run = yaml.safe_load(text)
    run["corpus"]["limit"] = ROWS
    run["teacher"] = {"engine": "echo", "replicas": run["teacher"]["replicas"]}
    run["student"]["init"] = {"kind": "first-layers", "layers": 1}
    run["training"]["epochs"] = 1
    parse_run(run)
    return yaml.safe_dump(run)
