"""Overlays and components pass the checker, alone and together."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from tests.k8s.checker import check
from tests.k8s.checker.problem import Object
from tests.support.k8s.rendering import (
    EXTERNALS,
    K8S,
    OVERLAYS,
    PARTS,
    STANDING,
    combined,
    needs_kustomize,
    overlay,
    with_components,
)

BASES = ["base", "base/label", "base/train", "base/evaluate", "base/cluster", "base/students"]
SETTINGS = ["overlays/dev-cpu/run", "overlays/dev-cpu/settings"]
COMPONENTS = sorted(path.name for path in (K8S / "components").iterdir())
OPTIONAL = ("object-store", "kueue", "incremental-upgrade")
"""Components that README.md has people add to an overlay."""
CHOICES = [
    pytest.param(chosen, marks=pytest.mark.full if count == 2 else (), id=", ".join(chosen) or "none")
    for count in range(len(OPTIONAL) + 1)
    for chosen in itertools.combinations(OPTIONAL, count)
]
CRDS = Path(os.environ["RAYSTILL_KUBERAY_CRDS"]) if "RAYSTILL_KUBERAY_CRDS" in os.environ else None
"""Without KubeRay's CRDs everything but the schemas of Ray's kinds is checked."""


def assert_passes(objects: Sequence[Object]) -> None:
    found = check(objects, CRDS, EXTERNALS)
    assert found == [], "\n".join(map(str, found))


@needs_kustomize
@pytest.mark.parametrize("chosen", CHOICES)
@pytest.mark.parametrize("name", OVERLAYS)
def test_overlays_pass_with_optional_components(name: str, chosen: tuple[str, ...], tmp_path: Path) -> None:
    root = with_components(tmp_path, chosen)
    # Each job's folder renders the same ConfigMap with the run file.
    objects = list({json.dumps(found, sort_keys=True): found for found in overlay(name, root)}.values())
    assert_passes(objects)
    assert len(objects) > 15


def bases_with(scratch: Path, *components: str) -> list[Object]:
    """All bases with some components, and the Serve config that an overlay adds."""
    standing = (STANDING[name] for name in components if name in STANDING)
    objects = combined(scratch, BASES, [*(f"components/{name}" for name in (*components, *standing)), *SETTINGS])
    config = (K8S / "overlays/dev-cpu/serve-config.yaml").read_text(encoding="utf-8")
    return [
        {**found, "spec": {**found["spec"], "serveConfigV2": config}} if found["kind"] == "RayService" else found
        for found in objects
    ]


@needs_kustomize
@pytest.mark.parametrize("component", COMPONENTS)
def test_components_pass_on_all_bases(component: str, tmp_path: Path) -> None:
    assert_passes(bases_with(tmp_path, component))


@needs_kustomize
@pytest.mark.full
def test_pairs_of_components_pass_on_all_bases(tmp_path: Path) -> None:
    for number, (first, second) in enumerate(itertools.combinations(COMPONENTS, 2)):
        scratch = tmp_path / str(number)
        scratch.mkdir()
        assert_passes(bases_with(scratch, first, second))


def test_the_argo_cd_application_passes() -> None:
    assert_passes([yaml.safe_load((K8S / "platform/argocd-app.yaml").read_text(encoding="utf-8"))])


@needs_kustomize
def test_every_folder_with_a_kustomization_is_tested() -> None:
    kinds = {
        file: yaml.safe_load(file.read_text(encoding="utf-8"))["kind"]
        for file in (K8S / "overlays").rglob("kustomization.yaml")
    }
    roots = {file.parent for file, kind in kinds.items() if kind == "Kustomization"}
    assert roots == {K8S / "overlays" / name / part for name in OVERLAYS for part in PARTS}
