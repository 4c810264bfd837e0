"""Overlays and the rest of the project agree: run files, commands, versions, images, sizes and times.

Rules for one object alone are in checker/rules.yaml.
"""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.config.load import parse_run
from tests.support.k8s.commands import parsed_arguments, run_of
from tests.support.k8s.rendering import (
    K8S,
    ROOT,
    STANDING,
    Object,
    cluster_of,
    combined,
    each_overlay,
    groups,
    named,
    needs_kustomize,
    overlay,
    render,
    with_components,
)

VERSIONS: dict[str, Any] = yaml.safe_load((K8S / "versions.yaml").read_text(encoding="utf-8"))
STAGES = ("label", "train", "evaluate")
RAY_DRAIN_S = 30
"""Ray's default for draining a node."""
SUCCESSOR_S = 180
"""Time for the successor of a drained replica to start. Serve stops the replica one request timeout before the drain's end."""


def gpus(group: Object) -> int:
    return int(group["template"]["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu", 0))


@needs_kustomize
@each_overlay
def test_clusters_have_the_labels_of_part_and_one_ray(name: str) -> None:
    found = list(groups(overlay(name)))
    assert {group.part for group in found} == {*STAGES, "students", "cluster"}
    for group in found:
        labels = group.template["metadata"]["labels"]
        assert (labels["raystill.io/part"], labels["raystill.io/node"]) == (group.part, group.role), group.owner
    clusters = [cluster_of(found) for found in overlay(name) if found["apiVersion"].startswith("ray.io/")]
    assert {cluster["rayVersion"] for cluster in clusters} == {VERSIONS["ray"]}


@needs_kustomize
@each_overlay
def test_grace_periods_outlast_drains_and_requests(name: str) -> None:
    objects, request_s = overlay(name), run_of(name).serving.request_timeout_s
    for group in groups(objects):
        if group.role == "submitter":
            continue
        variables = {entry["name"]: entry.get("value") for entry in group.container["env"]}
        drain_s = float(variables.get("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S") or RAY_DRAIN_S)
        assert group.pod["terminationGracePeriodSeconds"] > drain_s, group.owner
        if group.part in ("students", "cluster"):
            assert drain_s >= SUCCESSOR_S + request_s, group.owner
    service = named(objects, "RayService", "raystill-students")
    assert service["spec"]["rayClusterDeletionDelaySeconds"] > request_s


@needs_kustomize
def test_images_are_those_of_versions_yaml_or_digests() -> None:
    assert {g.container["image"] for g in groups(overlay("dev-cpu"))} == {VERSIONS["images"]["raystill"]["cpu"]}
    images = set(re.findall(r"(?m)^\s*(?:- )?image: (.+)$", "\n".join(yaml.safe_dump(o) for o in overlay("prod-gpu"))))
    assert {one.partition("@")[0] for one in images} == {"registry.example.com/raystill", "registry.example.com/redis"}
    assert all(re.fullmatch(r"[^@]+@sha256:[0-9a-f]{64}", image) for image in images)


@needs_kustomize
@each_overlay
@pytest.mark.parametrize("stage", STAGES)
def test_a_job_runs_its_stage_on_the_overlays_run_file(name: str, stage: str) -> None:
    objects = render(K8S / "overlays" / name / stage)
    job = named(objects, "RayJob", f"raystill-{stage}")
    program, command, *rest = shlex.split(job["spec"]["entrypoint"])
    assert (program, command) == ("raystill", stage)
    run_file = parsed_arguments(command, rest)["run_file"]
    head = next(group for group in groups([job]) if group.role == "head")
    volume = next(v for v in head.pod["volumes"] if "configMap" in v)
    folder = next(m["mountPath"] for m in head.container["volumeMounts"] if m["name"] == volume["name"])
    config = named(objects, "ConfigMap", volume["configMap"]["name"])
    (text,) = (text for file, text in config["data"].items() if f"{folder}/{file}" == run_file)
    run = parse_run(yaml.safe_load(text))
    assert run == run_of(name)
    teacher, training, evaluation = run.teacher, run.training, run.evaluation
    least, most = {
        "label": (teacher.replicas.min * teacher.gpus_per_replica, teacher.replicas.max * teacher.gpus_per_replica),
        "train": (training.workers * training.gpus_per_worker,) * 2,
        "evaluate": (evaluation.workers * evaluation.gpus_per_worker,) * 2,
    }[stage]
    (workers,) = cluster_of(job)["workerGroupSpecs"]
    assert least <= workers["minReplicas"] * gpus(workers)
    assert most <= workers["maxReplicas"] * gpus(workers)


@needs_kustomize
def test_the_endpoint_has_gpus_for_all_replicas() -> None:
    workers = cluster_of(named(overlay("prod-gpu"), "RayService", "raystill-students"))["workerGroupSpecs"][0]
    serving = run_of("prod-gpu").serving
    students = yaml.safe_load((K8S / "overlays/prod-gpu/endpoint.yaml").read_text(encoding="utf-8"))["students"]
    assert serving.replicas.max * serving.gpus_per_replica * len(students) <= workers["maxReplicas"] * gpus(workers)
    assert workers["minReplicas"] >= 2, "one worker answers while the other's node is drained"


@needs_kustomize
def test_queued_jobs_have_a_fixed_size(tmp_path: Path) -> None:
    settings = ["object-store", "kueue", *STANDING.values()]
    components = ["overlays/prod-gpu/run", "overlays/prod-gpu/settings", *(f"components/{name}" for name in settings)]
    objects = combined(tmp_path, ["base/label", "base/train"], components)
    for job in (o for o in objects if o["kind"] == "RayJob"):
        assert not cluster_of(job).get("enableInTreeAutoscaling")
        (workers,) = cluster_of(job)["workerGroupSpecs"]
        assert workers["minReplicas"] == workers["replicas"] == workers["maxReplicas"]
        keys = [toleration["key"] for toleration in workers["template"]["spec"]["tolerations"]]
        assert {"nvidia.com/gpu", "raystill.io/spot"} <= set(keys)


@needs_kustomize
@pytest.mark.parametrize("place", ["in the overlay's list", "on top of the overlay"])
def test_an_incremental_upgrade_needs_one_spare_gpu(place: str, tmp_path: Path) -> None:
    """A new cluster requests a GPU when its first replica needs one, and the first step moves one replica."""
    if place == "on top of the overlay":
        objects = combined(tmp_path, ["overlays/prod-gpu"], ["components/incremental-upgrade"])
    else:
        objects = render(with_components(tmp_path, ["incremental-upgrade"]) / "overlays" / "prod-gpu")
    service = named(objects, "RayService", "raystill-students")
    upgrade = service["spec"]["upgradeStrategy"]
    assert upgrade["type"] == "NewClusterWithIncrementalUpgrade"
    (workers,) = cluster_of(service)["workerGroupSpecs"]
    assert (workers["replicas"], workers["minReplicas"]) == (0, 0)
    serving = run_of("prod-gpu").serving
    surge = upgrade["clusterUpgradeOptions"]["maxSurgePercent"] / 100
    assert surge * serving.replicas.min * serving.gpus_per_replica == 1


@needs_kustomize
def test_drains_evict_no_head_during_an_upgrade() -> None:
    """A budget selects the pods of all clusters. An upgrade has two, and a third one until the oldest is deleted."""
    budgets = {o["metadata"]["name"]: o["spec"] for o in overlay("prod-gpu") if o["kind"] == "PodDisruptionBudget"}
    heads = budgets["raystill-students-head"]
    assert heads["selector"]["matchLabels"] == {"raystill.io/part": "students", "raystill.io/node": "head"}
    assert heads["minAvailable"] > 3
    assert budgets["raystill-students-workers"]["minAvailable"] == 1, "2 would refuse the drain of one of two"


def test_patches_on_rays_kinds_are_json_6902() -> None:
    """A strategic-merge patch on workerGroupSpecs replaces the list, pod templates included."""
    for file in K8S.rglob("kustomization.yaml"):
        for patch in yaml.safe_load(file.read_text(encoding="utf-8")).get("patches", []):
            tree = yaml.safe_load(patch["patch"])
            assert isinstance(tree, list) or not tree["apiVersion"].startswith("ray.io/"), file


def test_all_files_name_the_versions_of_versions_yaml() -> None:
    files = ("constraints/cpu.txt", "constraints/gpu.txt", "pyproject.toml", "k8s/image/Dockerfile", "k8s/README.md")
    files += ("k8s/platform/operator-values.yaml", "k8s/components/gcs-ft-redis/redis.yaml")
    files += ("k8s/components/logs/kustomization.yaml",)
    text = {name: (ROOT / name).read_text(encoding="utf-8") for name in files}
    for variant in ("cpu", "gpu"):
        assert f"\nray=={VERSIONS['ray']}\n" in text[f"constraints/{variant}.txt"]
        assert VERSIONS["images"]["raystill"][variant] == f"raystill:{VERSIONS['raystill']}-{variant}"
    assert f"\nnvidia-cuda-runtime=={VERSIONS['cuda']}." in text["constraints/gpu.txt"]
    assert f'\nversion = "{VERSIONS["raystill"]}"\n' in text["pyproject.toml"]
    assert f"ARG BASE={VERSIONS['images']['base']}\n" in text["k8s/image/Dockerfile"]
    assert f"python:{VERSIONS['python']}-" in VERSIONS["images"]["base"]
    values = yaml.safe_load(text["k8s/platform/operator-values.yaml"])["image"]
    assert f"{values['repository']}:{values['tag']}" == VERSIONS["images"]["operator"]
    assert values["tag"] == f"v{VERSIONS['kuberay']}"
    assert f"image: {VERSIONS['images']['redis']}\n" in text["k8s/components/gcs-ft-redis/redis.yaml"]
    assert set(re.findall(r"--version (\S+)", text["k8s/README.md"])) == {VERSIONS["kuberay"]}
    assert set(re.findall(r'image: "(\S+)"', text[files[-1]])) == {VERSIONS["images"]["fluent-bit"]}
