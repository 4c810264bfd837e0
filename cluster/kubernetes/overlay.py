"""An overlay: the Kustomize folders of one environment. Its root has the shared objects and the endpoint; label, train and evaluate one
RayJob each.

Only Kustomize can render what a user may write into an overlay, so its program is called: `kustomize`, or `kubectl`, which contains it.
It reads files and reaches no server. Requests to the API server never go through it.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import yaml

from cluster.kubernetes.objects import CONFIG_MAP, RAYJOB, Object, name_of, named
from pipelines.errors import UserError, last_line

RUN_KEY = "run.yaml"
"""The key of the run file in the ConfigMap that an overlay's jobs mount."""
_SHIPPED = Path("k8s/overlays")
_RENDER_S = 60.0


@dataclass(frozen=True)
class StageObjects:
    """What one stage of an overlay consists of."""

    rayjob: Object
    run_map: str
    """Name of the ConfigMap with the overlay's own run file."""

    @property
    def namespace(self) -> str:
        """The namespace of the job."""
        return str(self.rayjob["metadata"].get("namespace", "default"))


def find_overlay(text: str) -> Path:
    """The folder of an overlay: a path, or the name of a folder in k8s/overlays. Raises UserError if it does not exist."""
    for folder in (Path(text), _SHIPPED / text):
        if (folder / "kustomization.yaml").is_file():
            return folder
    names = sorted(file.parent.name for file in _SHIPPED.glob("*/kustomization.yaml"))
    remedy = (
        f"Name one of {', '.join(names)}, or the path of your own."
        if names
        else "Give its path, such as k8s/overlays/prod-gpu."
    )
    raise UserError(f"--overlay {text}", "no folder with a kustomization.yaml has this name", remedy)


def render(folder: Path) -> list[Object]:
    """The objects of a folder with a kustomization.yaml. Raises UserError if Kustomize refuses it or is not installed."""
    if program := shutil.which("kustomize"):
        command = [program, "build", str(folder)]
    elif program := shutil.which("kubectl"):
        command = [program, "kustomize", str(folder)]
    else:
        remedy = "Install one of them (Debian: `apt-get install kustomize`)."
        raise UserError(f"overlay {folder}", "neither kustomize nor kubectl is installed to render it", remedy)
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_RENDER_S)
    except subprocess.TimeoutExpired as error:
        rule = f"{command[0]} does not end within {_RENDER_S:g} s"
        raise UserError(f"overlay {folder}", rule, "Name no remote resources in it.") from error
    if done.returncode:
        reason = last_line(ValueError(done.stderr))
        raise UserError(f"overlay {folder}", f"Kustomize refuses it ({reason})", f"Try `{' '.join(command)}`.")
    try:
        found = [tree for tree in yaml.safe_load_all(done.stdout) if tree]
    except yaml.YAMLError as error:
        raise UserError(f"overlay {folder}", "Kustomize renders no YAML", f"Try `{' '.join(command)}`.") from error
    return found


def stage_objects(overlay: Path, stage: str) -> StageObjects:
    """The RayJob of a stage. Raises UserError if the overlay has none for it."""
    folder = overlay / stage
    if not (folder / "kustomization.yaml").is_file():
        rule = f"it has no folder {stage} with a kustomization.yaml"
        raise UserError(f"overlay {overlay}", rule, f"Copy k8s/overlays/prod-gpu/{stage} into it.")
    objects = render(folder)
    jobs = named(objects, RAYJOB.name)
    maps = [found for found in named(objects, CONFIG_MAP.name) if RUN_KEY in found.get("data", {})]
    if len(jobs) != 1 or len(maps) != 1:
        rule = f"it renders {len(jobs)} RayJobs and {len(maps)} ConfigMaps with {RUN_KEY}; a stage has one of each"
        raise UserError(f"overlay {folder}", rule, f"Compare it with k8s/overlays/prod-gpu/{stage}.")
    if "rayClusterSpec" not in jobs[0]["spec"]:
        rule = f"its RayJob {name_of(jobs[0])} has no rayClusterSpec; a stage runs on a cluster of its own"
        raise UserError(f"overlay {folder}", rule, f"Compare it with k8s/overlays/prod-gpu/{stage}.")
    return StageObjects(jobs[0], str(maps[0]["metadata"]["name"]))
