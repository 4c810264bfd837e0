"""Overlays and components pass the checker, alone and together."""

import functools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml

from tests.k8s.checker import check
from tests.k8s.checker.problem import Object
from tests.k8s.checker.rules import walk
from tests.support.k8s.quantities import canonical
from tests.support.k8s.rendering import (
    EXTERNALS,
    K8S,
    OVERLAYS,
    PARTS,
    STANDING,
    combined,
    each_overlay,
    needs_kustomize,
    overlay,
    render,
    with_components,
)

BASES = ["base", "base/label", "base/train", "base/evaluate", "base/cluster", "base/students"]
SETTINGS = ["overlays/dev-cpu/run", "overlays/dev-cpu/settings"]
COMPONENTS = sorted(path.name for path in (K8S / "components").iterdir() if path.name != "schedule")
OPTIONAL = ("object-store", "kueue", "incremental-upgrade", "priority", "logs", "ingress", "pull-secret")
"""Components that README.md has people add to an overlay."""
CHOICES = [(), *((name,) for name in OPTIONAL[:-1]), OPTIONAL]
each_choice = pytest.mark.parametrize("chosen", CHOICES, ids=lambda chosen: "all" if chosen[1:] else "".join(chosen))
CRDS = Path(os.environ["RAYSTILL_KUBERAY_CRDS"]) if "RAYSTILL_KUBERAY_CRDS" in os.environ else None
"""Without KubeRay's CRDs everything but the schemas of Ray's kinds is checked."""
Rendered = Callable[[str, tuple[str, ...]], list[Object]]


def assert_passes(objects: Sequence[Object]) -> None:
    found = check(objects, CRDS, EXTERNALS)
    assert found == [], "\n".join(map(str, found))


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, tuple[str, ...]], list[Object]]:
    """The objects of an overlay with components, each once: every job's folder renders the ConfigMap with the run file."""

    @functools.cache
    def with_chosen(name: str, chosen: tuple[str, ...]) -> list[Object]:
        root = with_components(tmp_path_factory.mktemp("k8s"), chosen)
        return list({json.dumps(found, sort_keys=True): found for found in overlay(name, root)}.values())

    return with_chosen


@needs_kustomize
@each_choice
@each_overlay
def test_overlays_pass_with_optional_components(name: str, chosen: tuple[str, ...], rendered: Rendered) -> None:
    objects = rendered(name, chosen)
    assert_passes(objects)
    assert len(objects) > 15


def ray_objects(objects: Sequence[Object]) -> list[Object]:
    return [found for found in objects if found["apiVersion"].startswith("ray.io/")]


@needs_kustomize
@each_overlay
def test_ray_objects_are_as_the_operator_writes_them(name: str, rendered: Rendered) -> None:
    """KubeRay's Go types write objects back. The operator owns what they change, and each later apply conflicts."""
    for found in ray_objects(rendered(name, OPTIONAL)):
        fields = list(walk(found))
        empty = {key for _, key, value in fields if value in ({}, [], "", None)}
        assert empty <= {"scaleStrategy", "rayStartParams"}, "other empty fields are left out"
        assert not {key for _, key, value in fields if value is False} & {"readOnly", "hostNetwork", "suspend"}
        amounts = [amount for _, key, value in fields if key in ("limits", "requests") for amount in value.values()]
        amounts += [value for _, key, value in fields if key in ("sizeLimit", "storage")]
        assert amounts == [canonical(amount) for amount in amounts], "a text, 500m instead of 0.5"
        for group in (group for _, key, value in fields if key == "workerGroupSpecs" for group in value):
            assert "scaleStrategy" in group, "it is written also if it is empty"


@needs_kustomize
def test_a_schedule_runs_the_stage_of_its_folder(tmp_path: Path) -> None:
    components = ["overlays/prod-gpu/run", "overlays/prod-gpu/settings", "components/schedule"]
    objects = combined(tmp_path, ["base", "base/label"], components)
    (cron,) = ray_objects(objects)
    assert cron["spec"]["jobTemplate"]["entrypoint"] == "raystill label /config/run.yaml"
    found = check(objects, CRDS, EXTERNALS)
    assert [one for one in found if one.rule != "reference/selects-nothing"] == [], "parts are left out"


def bases_with(scratch: Path, *components: str) -> list[Object]:
    """All bases with some components, and the Serve config that an overlay adds."""
    standing = (STANDING[name] for name in components if name in STANDING)
    objects = combined(scratch, BASES, [*SETTINGS, *(f"components/{name}" for name in (*components, *standing))])
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
def test_a_teacher_over_two_nodes_has_gpus_for_its_model() -> None:
    objects = [*overlay("prod-gpu"), *render(K8S / "overlays/prod-gpu/teacher")]
    assert_passes(list({json.dumps(found, sort_keys=True): found for found in objects}.values()))
    (service,) = (o for o in objects if o["metadata"]["name"] == "raystill-teacher")
    (group,) = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    (application,) = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
    engine = application["args"]["llm_configs"][0]["engine_kwargs"]
    gpus = int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
    assert (engine["tensor_parallel_size"], engine["pipeline_parallel_size"]) == (gpus, group["replicas"])


def test_the_argo_cd_application_passes() -> None:
    assert_passes([yaml.safe_load((K8S / "platform/argocd-app.yaml").read_text(encoding="utf-8"))])


@needs_kustomize
def test_every_folder_with_a_kustomization_is_tested() -> None:
    kinds = {one: yaml.safe_load(one.read_text())["kind"] for one in (K8S / "overlays").rglob("kustomization.yaml")}
    roots = {file.parent for file, kind in kinds.items() if kind == "Kustomization"}
    shipped = {K8S / "overlays" / name / part for name in OVERLAYS for part in PARTS}
    assert roots == {*shipped, K8S / "overlays/prod-gpu/teacher"}
