"""settings.yaml: every value reaches the manifests, and wrong ones are refused before Kubernetes sees them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.kubernetes.settings import FILE, read_settings
from pipelines.errors import UserError
from tests.support.k8s.rendering import K8S, each_overlay, named, needs_kustomize, overlay, with_components


def edited(tmp_path: Path, name: str, old: str, new: str) -> Path:
    """A copy of k8s/ with another setting of an overlay."""
    root = with_components(tmp_path, ["kueue", "object-store", "ingress"])
    file = root / "overlays" / name / FILE
    text = file.read_text(encoding="utf-8")
    assert len(re.findall(old, text)) == 1
    file.write_text(re.sub(old, new, text), encoding="utf-8")
    return root


def test_every_setting_has_a_place_in_the_manifests() -> None:
    sources: set[str] = set()
    for file in [*K8S.rglob("kustomization.yaml"), K8S / "base/namespace/namespace.yaml"]:
        for entry in yaml.safe_load(file.read_text(encoding="utf-8")).get("replacements", []):
            if entry["source"]["kind"] == "Settings":
                sources.add(entry["source"]["fieldPath"].removeprefix("spec."))
    assert sources == set(leaves(read_settings(K8S / "overlays/prod-gpu").model_dump(by_alias=True)))


def leaves(tree: Any, path: str = "") -> list[str]:
    if not isinstance(tree, dict):
        return [path]
    return [leaf for key, value in tree.items() for leaf in leaves(value, f"{path}.{key}".lstrip("."))]


@needs_kustomize
@each_overlay
def test_the_namespace_of_a_second_team_moves_every_object(name: str, tmp_path: Path) -> None:
    root = edited(tmp_path, name, "namespace: raystill", "namespace: team-b")
    objects = overlay("team-b", Path(shutil.move(root / "overlays" / name, root / "overlays" / "team-b")).parents[1])
    clusterwide = {"ClusterQueue", "ResourceFlavor", "PriorityClass"}
    assert {o["metadata"].get("namespace") for o in objects if o["kind"] not in clusterwide} == {"team-b"}
    assert [s["namespace"] for o in objects if o["kind"] == "RoleBinding" for s in o["subjects"]] == ["team-b"]
    maps = {o["metadata"]["name"] for o in objects if o["kind"] == "ConfigMap"}
    volumes = re.findall(r"'configMap': {'name': '([^']+)'}", str(objects))
    assert volumes
    assert set(volumes) <= maps, "Kustomize must still find the ConfigMaps whose names have a hash"


@needs_kustomize
def test_settings_reach_images_sizes_and_hosts(tmp_path: Path) -> None:
    root = edited(tmp_path, "prod-gpu", 'gpus: "1"', 'gpus: "4"')
    file = root / "overlays/prod-gpu" / FILE
    text = file.read_text().replace("memory: 64Gi", "memory: 256Gi").replace("host: raystill.", "host: ai.")
    file.write_text(text.replace("label: {min: 1, max: 4}", "label: {min: 2, max: 3}"), encoding="utf-8")
    objects = overlay("prod-gpu", root)
    (group,) = named(objects, "RayJob", "raystill-label")["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits == {"cpu": "8", "memory": "256Gi", "nvidia.com/gpu": "4"}
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (3, 3, 3), "Kueue wants a fixed size"
    assert named(objects, "Ingress", "raystill")["spec"]["tls"][0]["hosts"] == ["ai.example.com"]


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ('cpu: "8"', 'cpu: "0.5"', "spec.worker.cpu: String should match"),
        ("memory: 64Gi", "memory: 1024Gi", "spec.worker.memory: String should match"),
        ('gpus: "1"', "gpus: 1", "spec.worker.gpus: Input should be a valid string"),
        ("image: registry.example.com/raystill@sha256:0{64}", "image: raystill", "spec.image: String should match"),
        ("label: {min: 1, max: 4}", "label: {min: 5, max: 4}", "spec.label: .*min 5 is above max 4"),
        ("host: ", "hosts: ", "spec.hosts: Extra inputs are not permitted"),
        ("train: 2", "train: [", "it is no YAML"),
    ],
)
def test_wrong_settings_are_refused(old: str, new: str, match: str, tmp_path: Path) -> None:
    root = edited(tmp_path, "prod-gpu", old, new)
    with pytest.raises(UserError, match=f"settings.yaml: .*{match}"):
        read_settings(root / "overlays/prod-gpu")
