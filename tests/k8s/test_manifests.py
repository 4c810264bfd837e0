"""What the overlays render: pods that may run, references that lead somewhere, commands and run files that the package takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.cli import main
from pipelines.config import RunConfig
from pipelines.config.load import parse_run
from tests.k8s.checker.quantities import quantity
from tests.support.k8s.dashboards import SERVING
from tests.support.k8s.rendering import (
    K8S,
    OVERLAYS,
    PARTS,
    ROOT,
    STANDING,
    Group,
    Object,
    cluster_of,
    combined,
    groups,
    named,
    needs_kustomize,
    overlay,
    render,
    with_components,
)

VERSIONS: dict[str, Any] = yaml.safe_load((K8S / "versions.yaml").read_text(encoding="utf-8"))
EXTERNAL_SECRETS = {"raystill-keys", "raystill-redis", "raystill-object-store"}
"""Secrets that README.md tells people to make."""
STAGES = ("label", "train", "evaluate")
RAY_DRAIN_S = 30
SUCCESSOR_S = 180
"""For the successor of a drained replica to start. Serve stops the replica so long before the drain's end as its requests may take."""
each_overlay = pytest.mark.parametrize("name", OVERLAYS)


def arguments_of(command: str, given: list[str]) -> dict[str, Any]:
    """What a command of ours reads on its command line."""
    # A command keeps the help option of the context that it is asked in first: it must be one within ours.
    return main.commands[command].make_context(command, given, parent=main.make_context("raystill", [command])).params


def run_of(name: str) -> RunConfig:
    file = K8S / "overlays" / name / "run" / "run.yaml"
    return parse_run(yaml.safe_load(file.read_text(encoding="utf-8")), origin=str(file))


def gpus(group: Object) -> int:
    return int(group["template"]["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu", 0))


@needs_kustomize
@each_overlay
def test_pods_may_run_and_may_end(name: str) -> None:
    needed_s = SUCCESSOR_S + run_of(name).serving.request_timeout_s
    found = list(groups(overlay(name)))
    assert {group.part for group in found} == {*STAGES, "students", "cluster"}
    for group in found:
        check_safe(group)
        if group.role == "submitter":
            continue
        check_sizes(group)
        variables = {entry["name"]: entry.get("value") for entry in group.container["env"]}
        assert (variables["RAY_LOGGING_CONFIG_ENCODING"], variables["RAY_BACKEND_LOG_JSON"]) == ("JSON", "1"), (
            group.owner
        )
        drain_s = float(variables.get("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S") or RAY_DRAIN_S)
        grace_s = group.pod["terminationGracePeriodSeconds"]
        assert grace_s > drain_s, group.owner
        if group.part in ("students", "cluster"):
            assert drain_s >= needed_s, group.owner
        assert "preStop" not in str(group.template), group.owner


def check_safe(group: Group) -> None:
    pod = group.pod
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    autoscaled = group.template["metadata"]["labels"].get("raystill.io/autoscaler") == "true"
    assert pod["automountServiceAccountToken"] is autoscaled, group.owner
    assert (pod["serviceAccountName"] == "raystill-head") is autoscaled, group.owner
    if group.role == "worker":
        assert not autoscaled
    else:  # the head of a GPU cluster would take a GPU node, and a spot node would take the head with it
        assert not pod.get("tolerations"), group.owner
    labels = group.template["metadata"]["labels"]
    assert (labels["raystill.io/part"], labels["raystill.io/node"]) == (group.part, group.role)


def check_sizes(group: Group) -> None:
    requests, limits = group.container["resources"]["requests"], group.container["resources"]["limits"]
    assert requests == limits, group.owner
    shared = next(volume for volume in group.pod["volumes"] if volume["name"] == "shm")["emptyDir"]
    size, memory = quantity(shared["sizeLimit"]), quantity(limits["memory"])
    assert size is not None
    assert memory is not None
    share = size / memory
    assert shared["medium"] == "Memory"
    assert 0.3 <= share < 0.5, f"{group.owner} {group.role}: Ray's objects take 30% of the memory"
    mounts = {mount["name"]: mount["mountPath"] for mount in group.container["volumeMounts"]}
    assert mounts["shm"] == "/dev/shm"
    assert set(mounts) == {volume["name"] for volume in group.pod["volumes"]}
    if group.role == "head":
        assert group.spec["rayStartParams"]["num-cpus"] == "0"


@needs_kustomize
@each_overlay
def test_clusters_say_what_they_are(name: str) -> None:
    for found in (o for o in overlay(name) if o["apiVersion"].startswith("ray.io/")):
        cluster = cluster_of(found)
        assert cluster["rayVersion"] == VERSIONS["ray"]
        assert cluster["authOptions"] == {"mode": "token"}
        scaled = cluster.get("enableInTreeAutoscaling", False)
        for group in cluster["workerGroupSpecs"]:
            assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
            assert scaled or group["minReplicas"] == group["maxReplicas"]
        if found["kind"] == "RayService":
            assert len(found["metadata"]["name"]) <= 47
            assert found["spec"]["rayClusterDeletionDelaySeconds"] > run_of(name).serving.request_timeout_s


@needs_kustomize
def test_images() -> None:
    variants = VERSIONS["images"]["raystill"]
    assert {g.container["image"] for g in groups(overlay("dev-cpu"))} == {variants["cpu"]}
    images = set(re.findall(r"(?m)^\s*(?:- )?image: (.+)$", "\n".join(yaml.safe_dump(o) for o in overlay("prod-gpu"))))
    assert {image.partition("@")[0] for image in images} == {
        "registry.example.com/raystill",
        "registry.example.com/redis",
    }
    assert all(re.fullmatch(r"[^@]+@sha256:[0-9a-f]{64}", image) for image in images)


@needs_kustomize
@each_overlay
def test_references_lead_somewhere(name: str) -> None:
    objects = overlay(name)
    there = {(o["kind"], o["metadata"]["name"]) for o in objects}
    for found in objects:
        assert found["kind"] != "Secret"
        for node in walk(found):
            if "claimName" in node:
                assert ("PersistentVolumeClaim", node["claimName"]) in there
            if "configMap" in node:
                assert ("ConfigMap", node["configMap"]["name"]) in there
            if "serviceAccountName" in node:
                assert ("ServiceAccount", node["serviceAccountName"]) in there
            for key in ("secretKeyRef", "secretRef", "secret"):
                if isinstance(node.get(key), dict):
                    assert (node[key].get("name") or node[key].get("secretName")) in EXTERNAL_SECRETS
            if re.search(r"(?i)token|password|secret|_key$", str(node.get("name", ""))) and "valueFrom" not in node:
                assert "value" not in node, f"a secret in {found['kind']} {found['metadata']['name']}"


@needs_kustomize
@each_overlay
def test_selectors_find_pods(name: str) -> None:
    objects = overlay(name)
    pods = [group.template["metadata"]["labels"] | {"ray.io/node-type": group.role} for group in groups(objects)]
    pods += [o["spec"]["template"]["metadata"]["labels"] for o in objects if o["kind"] == "StatefulSet"]
    for found in objects:
        if found["kind"] in ("NetworkPolicy", "PodDisruptionBudget", "PodMonitor"):
            own = found["spec"].get("podSelector", found["spec"].get("selector"))
            peers = [] if found["kind"] != "NetworkPolicy" else [
                peer["podSelector"] for rule in (*found["spec"].get("ingress", ()), *found["spec"].get("egress", ()))
                for peer in (*rule.get("from", ()), *rule.get("to", ())) if "podSelector" in peer and "namespaceSelector" not in peer
            ]  # fmt: skip
            for selector in (own, *peers):
                assert any(selects(selector, labels) for labels in pods), (found["metadata"]["name"], selector)
        if found["kind"] == "PodDisruptionBudget" and "raystill.io/node" in found["spec"]["selector"]["matchLabels"]:
            assert "maxUnavailable" not in found["spec"], "Ray's kinds have no scale: only minAvailable can be counted"


def selects(selector: Object, labels: Object) -> bool:
    wanted = selector.get("matchLabels", {}).items()
    among = selector.get("matchExpressions", ())
    return wanted <= labels.items() and all(labels.get(e["key"]) in e.get("values", ()) for e in among)


@needs_kustomize
@each_overlay
@pytest.mark.parametrize("stage", STAGES)
def test_a_job_runs_a_command_of_ours_on_a_run_file_of_ours(name: str, stage: str) -> None:
    objects = render(K8S / "overlays" / name / stage)
    job = named(objects, "RayJob", f"raystill-{stage}")
    program, *arguments = shlex.split(job["spec"]["entrypoint"])
    assert program == "raystill"
    command, *rest = arguments
    assert command == stage
    given = arguments_of(command, rest)
    head = next(group for group in groups([job]) if group.role == "head")
    volume = next(v for v in head.pod["volumes"] if "configMap" in v)
    folder = next(m["mountPath"] for m in head.container["volumeMounts"] if m["name"] == volume["name"])
    config = named(objects, "ConfigMap", volume["configMap"]["name"])
    (text,) = (text for file, text in config["data"].items() if f"{folder}/{file}" == given["run_file"])
    run = parse_run(yaml.safe_load(text))
    assert run == run_of(name)
    check_fits(run, stage, cluster_of(job)["workerGroupSpecs"][0])


def check_fits(run: RunConfig, stage: str, workers: Object) -> None:
    """What the stage wants before it starts is there at minReplicas, and what it may grow to at maxReplicas."""
    teacher, training, evaluation = run.teacher, run.training, run.evaluation
    least, most = {
        "label": (teacher.replicas.min * teacher.gpus_per_replica, teacher.replicas.max * teacher.gpus_per_replica),
        "train": (training.workers * training.gpus_per_worker,) * 2,
        "evaluate": (evaluation.workers * evaluation.gpus_per_worker,) * 2,
    }[stage]
    assert least <= workers["minReplicas"] * gpus(workers)
    assert most <= workers["maxReplicas"] * gpus(workers)


@needs_kustomize
def test_nodes_for_all_replicas_of_the_endpoint() -> None:
    workers = cluster_of(named(overlay("prod-gpu"), "RayService", "raystill-students"))["workerGroupSpecs"][0]
    serving = run_of("prod-gpu").serving
    students = yaml.safe_load((K8S / "overlays/prod-gpu/endpoint.yaml").read_text(encoding="utf-8"))["students"]
    assert serving.replicas.max * serving.gpus_per_replica * len(students) <= workers["maxReplicas"] * gpus(workers)
    assert workers["minReplicas"] >= 2, "a drain of one node leaves one that answers"


@needs_kustomize
def test_optional_components(tmp_path: Path) -> None:
    settings = ["object-store", "kueue", *STANDING.values()]
    objects = combined(
        tmp_path,
        ["base/label", "base/train"],
        [*(f"components/{name}" for name in settings), "overlays/prod-gpu/run", "overlays/prod-gpu/settings"],
    )
    for group in groups(objects):
        check_safe(group)
    for job in (o for o in objects if o["kind"] == "RayJob"):
        assert (
            job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
            == named(objects, "LocalQueue", "raystill")["metadata"]["name"]
        )
        assert not cluster_of(job).get("enableInTreeAutoscaling")
        workers = cluster_of(job)["workerGroupSpecs"][0]
        assert workers["minReplicas"] == workers["replicas"] == workers["maxReplicas"]
        keys = [toleration["key"] for toleration in workers["template"]["spec"]["tolerations"]]
        assert "nvidia.com/gpu" in keys
        assert "raystill.io/spot" in keys


@needs_kustomize
@pytest.mark.parametrize("way", ["in the overlay's list", "on top of it"])
def test_an_upgrade_in_steps(way: str, tmp_path: Path) -> None:
    """The second cluster asks for no GPU before a replica wants it, and for one for the first step."""
    if way == "on top of it":
        objects = combined(tmp_path, ["overlays/prod-gpu"], ["components/incremental-upgrade"])
    else:
        objects = render(with_components(tmp_path, ["incremental-upgrade"]) / "overlays" / "prod-gpu")
    service = named(objects, "RayService", "raystill-students")
    upgrade, cluster = service["spec"]["upgradeStrategy"], cluster_of(service)
    assert upgrade["type"] == "NewClusterWithIncrementalUpgrade"
    assert cluster["enableInTreeAutoscaling"] is True
    (workers,) = cluster["workerGroupSpecs"]
    assert (workers["replicas"], workers["minReplicas"]) == (0, 0)
    serving = run_of("prod-gpu").serving
    surge = upgrade["clusterUpgradeOptions"]["maxSurgePercent"] / 100
    assert surge * serving.replicas.min * serving.gpus_per_replica == 1, "at least one spare GPU, README.md says"


@needs_kustomize
def test_while_an_upgrade_has_two_clusters_no_drain_takes_a_head() -> None:
    """Both clusters' pods have the labels that a budget selects. A third is there until the one before has been deleted."""
    budgets = {o["metadata"]["name"]: o["spec"] for o in overlay("prod-gpu") if o["kind"] == "PodDisruptionBudget"}
    heads = budgets["raystill-students-head"]
    assert heads["selector"]["matchLabels"] == {"raystill.io/part": "students", "raystill.io/node": "head"}
    assert heads["minAvailable"] > 3
    assert budgets["raystill-students-workers"]["minAvailable"] == 1, "more would refuse the drain of one of two"
    assert "**Not during an upgrade**" in (K8S / "README.md").read_text(encoding="utf-8")


def test_rays_lists_are_not_merged() -> None:
    """A strategic-merge patch on workerGroupSpecs replaces the list, pod templates included."""
    for file in K8S.rglob("kustomization.yaml"):
        for patch in yaml.safe_load(file.read_text(encoding="utf-8")).get("patches", []):
            tree = yaml.safe_load(patch["patch"])
            assert isinstance(tree, list) or not tree["apiVersion"].startswith("ray.io/"), file


def test_one_version_of_everything() -> None:
    read = {name: (ROOT / name).read_text(encoding="utf-8") for name in (
        "constraints/cpu.txt", "constraints/gpu.txt", "pyproject.toml", "k8s/image/Dockerfile", "k8s/README.md",
        "k8s/platform/operator-values.yaml", "k8s/components/gcs-ft-redis/redis.yaml",
    )}  # fmt: skip
    for variant in ("cpu", "gpu"):
        assert f"\nray=={VERSIONS['ray']}\n" in read[f"constraints/{variant}.txt"]
        assert VERSIONS["images"]["raystill"][variant] == f"raystill:{VERSIONS['raystill']}-{variant}"
    assert f"\nnvidia-cuda-runtime=={VERSIONS['cuda']}." in read["constraints/gpu.txt"]
    assert f'\nversion = "{VERSIONS["raystill"]}"\n' in read["pyproject.toml"]
    assert f"ARG BASE={VERSIONS['images']['base']}\n" in read["k8s/image/Dockerfile"]
    assert f"python:{VERSIONS['python']}-" in VERSIONS["images"]["base"]
    values = yaml.safe_load(read["k8s/platform/operator-values.yaml"])["image"]
    assert f"{values['repository']}:{values['tag']}" == VERSIONS["images"]["operator"]
    assert values["tag"] == f"v{VERSIONS['kuberay']}"
    assert f"image: {VERSIONS['images']['redis']}\n" in read["k8s/components/gcs-ft-redis/redis.yaml"]
    assert set(re.findall(r"--version (\S+)", read["k8s/README.md"])) == {VERSIONS["kuberay"]}


def test_the_readme_names_all_there_is() -> None:
    text = (K8S / "README.md").read_text(encoding="utf-8")
    for folder in (*(K8S / "components").iterdir(), *(K8S / "overlays").iterdir()):
        assert f"`{folder.name}`" in text, folder
    for secret in EXTERNAL_SECRETS:
        assert secret in text, secret


@needs_kustomize
def test_the_dashboard_is_there() -> None:
    found = named(overlay("prod-gpu"), "ConfigMap", "raystill-serving-dashboard")
    assert found["data"]["serving-dashboard.json"] == SERVING.read_text(encoding="utf-8")
    assert found["metadata"]["labels"] == {"grafana_dashboard": "1"}


@needs_kustomize
def test_what_can_be_rendered_is_tested() -> None:
    kinds = {
        f: yaml.safe_load(f.read_text(encoding="utf-8"))["kind"] for f in (K8S / "overlays").rglob("kustomization.yaml")
    }
    roots = {f.parent for f, kind in kinds.items() if kind == "Kustomization"}
    assert roots == {K8S / "overlays" / name / part for name in OVERLAYS for part in PARTS}


def walk(node: Any) -> Any:
    """All mappings in a tree."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from walk(child)
