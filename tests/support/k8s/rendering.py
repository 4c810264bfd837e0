"""k8s/ as Kustomize renders it, and lookups in rendered objects."""

import functools
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
K8S = ROOT / "k8s"
OVERLAYS = ("dev-cpu", "prod-gpu")
PARTS = (".", "label", "train", "evaluate", "cluster", "loader", "models")
STANDING = {"object-store": "object-store/network", "kueue": "kueue/queues", "priority": "priority/classes"}
"""Component for `settings`, which all parts share -> component for the overlay's own list."""
IN_SETTINGS = (*STANDING, "logs")
CLUSTER_AT = {"RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}
EXTERNALS = frozenset(
    {f"Secret/raystill-{name}" for name in ("keys", "redis", "object-store", "registry", "tls")}
    | {"GatewayClass/istio"}
)
"""Objects that README.md has people make, as KIND/NAME."""
Object = dict[str, Any]
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _tool() -> list[str] | None:
    if found := shutil.which("kustomize"):
        return [found, "build"]
    if found := shutil.which("kubectl"):
        return [found, "kustomize"]
    return None


needs_kustomize = pytest.mark.skipif(
    _tool() is None, reason="neither kustomize nor kubectl is installed (Debian: apt-get install kustomize)"
)
each_overlay = pytest.mark.parametrize("name", OVERLAYS)


@functools.cache
def render(folder: Path) -> tuple[Object, ...]:
    command = [*(_tool() or []), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.load_all(done.stdout, Loader=_LOADER))


def overlay(name: str, root: Path = K8S) -> list[Object]:
    """All objects of an overlay with its jobs. `root`: k8s/ or a copy of it."""
    return [found for part in PARTS for found in render(root / "overlays" / name / part)]


def with_components(scratch: Path, chosen: Iterable[str]) -> Path:
    """Copy k8s/ and add components to its overlays, in the lists that README.md names. Returns the copy."""
    root = scratch / "k8s"
    shutil.copytree(K8S, root)
    for name in OVERLAYS:
        own = root / "overlays" / name
        for component in chosen:
            _add(own / "settings" if component in IN_SETTINGS else own, root / "components" / component)
            if component in STANDING:
                _add(own, root / "components" / STANDING[component])
    return root


def _add(folder: Path, component: Path) -> None:
    file = folder / "kustomization.yaml"
    tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    tree["components"].append(os.path.relpath(component, folder))
    file.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")


def combined(scratch: Path, resources: Iterable[str], components: Iterable[str]) -> tuple[Object, ...]:
    """Folders of k8s/ together, as a user's own overlay names them."""
    lists = {
        kind: [os.path.relpath(K8S / name, scratch.resolve()) for name in names]
        for kind, names in (("resources", resources), ("components", components))
    }
    head = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
    scratch.joinpath("kustomization.yaml").write_text(yaml.safe_dump(head | lists), encoding="utf-8")
    return render(scratch)


def named(objects: Iterable[Object], kind: str, name: str) -> Object:
    (found,) = (o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name)
    return found


@dataclass(frozen=True)
class Group:
    """Pods of one kind in a Ray cluster."""

    owner: str
    """RayJob/raystill-label"""
    part: str
    """label, train, evaluate, students or cluster"""
    role: str
    """head, worker or submitter"""
    spec: Object
    """The group's spec; for a submitter, its pod template."""

    @property
    def template(self) -> Object:
        return dict(self.spec["template"]) if self.role != "submitter" else self.spec

    @property
    def pod(self) -> Object:
        return dict(self.template["spec"])

    @property
    def container(self) -> Object:
        """The first container, which runs Ray."""
        return dict(self.pod["containers"][0])


def cluster_of(ray_object: Object) -> Object:
    """The RayCluster spec of one of Ray's kinds."""
    spec = ray_object["spec"]
    return dict(spec[CLUSTER_AT[ray_object["kind"]]] if ray_object["kind"] in CLUSTER_AT else spec)


def groups(objects: Iterable[Object]) -> Iterator[Group]:
    for found in objects:
        if not found["apiVersion"].startswith("ray.io/") or found["kind"] == "RayCronJob":
            continue
        owner, part = f"{found['kind']}/{found['metadata']['name']}", found["metadata"]["labels"]["raystill.io/part"]
        cluster = cluster_of(found)
        yield Group(owner, part, "head", cluster["headGroupSpec"])
        for group in cluster["workerGroupSpecs"]:
            yield Group(owner, part, "worker", group)
        if "submitterPodTemplate" in found["spec"]:
            yield Group(owner, part, "submitter", found["spec"]["submitterPodTemplate"])
