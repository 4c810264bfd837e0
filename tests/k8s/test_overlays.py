"""Every overlay, and every component on what it changes, against the checker: API server, operator, Pods, Serve, references, policy."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from tests.k8s.checker.checks import check
from tests.k8s.checker.crds import Crds
from tests.k8s.rendering import K8S, OVERLAYS, Object, combined, needs_kustomize, overlay

pytestmark = needs_kustomize
SECRETS = {"Secret/raystill-keys", "Secret/raystill-redis", "Secret/raystill-object-store"}
"""What the README has made by hand."""
EXTERNALS = {*SECRETS, "GatewayClass/istio"}
BASES = ["base", "base/label", "base/train", "base/evaluate", "base/cluster", "base/students"]
SETTINGS = ["overlays/dev-cpu/run", "overlays/dev-cpu/settings"]
COMPONENTS = sorted(path.name for path in (K8S / "components").iterdir())


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_passes(name: str, crds: Crds) -> None:
    # Each job's folder renders the run file's ConfigMap: the same one.
    objects = list({json.dumps(found, sort_keys=True): found for found in overlay(name)}.values())
    found = check(objects, crds=crds, externals=SECRETS, digests=name == "prod-gpu")
    assert found == [], "\n".join(map(str, found))
    assert len(objects) > 15


def bases_with(scratch: Path, *components: str) -> list[Object]:
    """All bases with some components, and the Serve config that an overlay puts in."""
    objects = combined(scratch, BASES, [*(f"components/{name}" for name in components), *SETTINGS])
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
