"""Every overlay, and every component on what it changes, against the checker: API server, operator, Pods, Serve, references, policy."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from tests.k8s.checker.checks import check
from tests.k8s.checker.crds import Crds
from tests.support.k8s.rendering import (
    K8S,
    OVERLAYS,
    STANDING,
    Object,
    combined,
    needs_kustomize,
    overlay,
    with_components,
)

pytestmark = needs_kustomize
SECRETS = {"Secret/raystill-keys", "Secret/raystill-redis", "Secret/raystill-object-store"}
"""What the README has made by hand."""
EXTERNALS = {*SECRETS, "GatewayClass/istio"}
BASES = ["base", "base/label", "base/train", "base/evaluate", "base/cluster", "base/students"]
SETTINGS = ["overlays/dev-cpu/run", "overlays/dev-cpu/settings"]
COMPONENTS = sorted(path.name for path in (K8S / "components").iterdir())
OPTIONAL = ("object-store", "kueue", "incremental-upgrade")
"""Those that README.md has people add to an overlay."""
CHOICES = [chosen for count in range(len(OPTIONAL) + 1) for chosen in itertools.combinations(OPTIONAL, count)]


@pytest.mark.parametrize("chosen", CHOICES, ids=lambda chosen: ", ".join(chosen) or "as it is")
@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_passes_with_any_of_its_optional_components(
    name: str, chosen: tuple[str, ...], tmp_path: Path, crds: Crds
) -> None:
    root = with_components(tmp_path, chosen)
    # Each job's folder renders the run file's ConfigMap: the same one.
    objects = list({json.dumps(found, sort_keys=True): found for found in overlay(name, root)}.values())
    found = check(objects, crds=crds, externals=EXTERNALS, digests=name == "prod-gpu")
    assert found == [], "\n".join(map(str, found))
    assert len(objects) > 15


def bases_with(scratch: Path, *components: str) -> list[Object]:
    """All bases with some components, and the Serve config that an overlay puts in."""
    standing = (STANDING[name] for name in components if name in STANDING)
    objects = combined(scratch, BASES, [*(f"components/{name}" for name in (*components, *standing)), *SETTINGS])
    config = (K8S / "overlays/dev-cpu/serve-config.yaml").read_text(encoding="utf-8")
    return [
        {**found, "spec": {**found["spec"], "serveConfigV2": config}} if found["kind"] == "RayService" else found
        for found in objects
    ]


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_component_passes_on_everything_that_it_changes(component: str, tmp_path: Path, crds: Crds) -> None:
    found = check(bases_with(tmp_path, component), crds=crds, externals=EXTERNALS)
    assert found == [], "\n".join(map(str, found))


def test_every_pair_of_components_that_goes_together_renders_and_passes(tmp_path: Path, crds: Crds) -> None:
    for number, (first, second) in enumerate(itertools.combinations(COMPONENTS, 2)):
        scratch = tmp_path / str(number)
        scratch.mkdir()
        found = check(bases_with(scratch, first, second), crds=crds, externals=EXTERNALS)
        assert found == [], f"{first}, {second}: " + "\n".join(map(str, found))
