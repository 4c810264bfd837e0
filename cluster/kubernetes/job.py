"""One stage of a run as a RayJob: the overlay's job with the run's own file.

The name is derived from run, stage and output: `raystill-svamp-label-1f2e3d4c`. An API server takes no name twice, so a job is never
submitted twice. An annotation has a digest of everything that the job does; two jobs of one name and digest are the same.
"""

from __future__ import annotations

import copy
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.jobs.package import COPIED, RUN_FILE, write_package
from cluster.kubernetes.objects import Object, cluster_spec, pod_templates
from cluster.kubernetes.overlay import RUN_KEY, StageObjects
from pipelines.config import RunConfig
from pipelines.config.load import parse_run
from pipelines.config.paths import get, put
from pipelines.errors import UserError
from pipelines.storage.filesystems import shown
from pipelines.storage.fingerprint import fingerprint

RUN, OUTPUT, SETTINGS = "raystill.io/run", "raystill.io/output", "raystill.io/settings"
"""Annotations of a job."""
_SLUG = 20
"""With the longest stage, a name then has 47 characters: KubeRay's limit."""
_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_MAP_BYTES = 1_000_000
"""Kubernetes' limit of a ConfigMap is 1 MiB."""
_IN_IMAGE = "/opt/raystill"
"""What the image contains: corpora."""


@dataclass(frozen=True)
class StageJob:
    """A RayJob to submit, and the ConfigMap that it mounts."""

    stage: str
    config_map: Object
    """Without a name: the API server appends one to `generateName`, so that no two attempts share it."""
    rayjob: Object
    overlay_map: str
    """Name of the overlay's ConfigMap in the job. The job's own replaces it."""

    @property
    def name(self) -> str:
        """The job's name."""
        return str(self.rayjob["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """The job's namespace."""
        return str(self.rayjob["metadata"]["namespace"])

    @property
    def settings(self) -> str:
        """The digest of what the job does."""
        return str(self.rayjob["metadata"]["annotations"][SETTINGS])

    def mounting(self, config_map: str) -> Object:
        """The RayJob with this ConfigMap."""
        return dict(_with_map(self.rayjob, self.overlay_map, config_map))


def job_name(run: RunConfig, stage: str) -> str:
    """The name of a run's stage."""
    slug = re.sub(r"[^a-z0-9]+", "-", run.name.lower())[:_SLUG].strip("-")
    return f"raystill-{slug}-{stage}-{fingerprint({'run': run.name, 'output': run.output})[:8]}"


def stage_job(run: RunConfig, stage: str, found: StageObjects, *, replace: bool = False) -> StageJob:
    """The job of a run's stage.

    Raises:
        UserError: the job's pods do not see a path of the run, or do not mount the run file.
    """
    data, job = _files(run, found), copy.deepcopy(found.rayjob)
    if replace:
        job["spec"]["entrypoint"] += " --replace"
    # Parsed, so that a default written out is the same setting.
    parsed = parse_run(yaml.safe_load(data[RUN_KEY])).model_dump(mode="json")
    spec = _with_map(job["spec"], found.run_map, "")
    settings = fingerprint({"spec": spec, "files": data | {RUN_KEY: parsed}})
    metadata = job["metadata"]
    metadata["name"], metadata["namespace"] = job_name(run, stage), found.namespace
    metadata["annotations"] = (metadata.get("annotations") or {}) | {
        RUN: run.name, OUTPUT: shown(run.output), SETTINGS: settings
    }  # fmt: skip
    config_map: Object = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "generateName": f"{metadata['name']}-",
            "namespace": found.namespace,
            "labels": dict(metadata.get("labels") or {}),
        },
        "immutable": True,
        "data": data,
    }
    return StageJob(stage, config_map, job, found.run_map)


def _files(run: RunConfig, found: StageObjects) -> dict[str, str]:
    """The run file as the pods need it, and the files that it names, by their key in the ConfigMap."""
    shared, at = [*_claim_folders(found.rayjob), _IN_IMAGE], _config_path(found)
    # Only the endpoint reads the keys, from a Secret: a job needs no such file.
    keys = [str(Path(run.serving.keys.file).parent)] if run.serving.keys.file else []
    with tempfile.TemporaryDirectory(prefix="raystill-") as scratch:
        folder = Path(scratch)
        try:
            write_package(run, folder, shared=[*shared, *keys], same_machine=False)
        except UserError as error:
            remedy = f"Name folders that the pods mount ({', '.join(shared)}), or an object store (s3://...)."
            raise UserError(error.value, error.rule, remedy) from error
        tree: dict[str, Any] = yaml.safe_load((folder / RUN_FILE).read_text(encoding="utf-8"))
        data = {}
        for key in COPIED:
            value = get(tree, key)
            if isinstance(value, str) and (folder / value).is_file():
                name = Path(value).name
                if name == RUN_KEY or not _KEY.fullmatch(name):
                    rule = "no ConfigMap takes this name: letters, digits, dots, dashes and underscores"
                    raise UserError(f"{key} {name}", rule, "Rename the file.")
                data[name] = (folder / value).read_text(encoding="utf-8")
                put(tree, key, f"{at}/{name}")
    data[RUN_KEY] = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    if (size := sum(len(text.encode()) for text in data.values())) > _MAP_BYTES:
        rule = f"they have {size:,} bytes, and a ConfigMap holds {_MAP_BYTES:,}"
        raise UserError("task file and teacher.shots", rule, "Put them on a volume, and name their paths there.")
    return data


def _claim_folders(rayjob: Object) -> list[str]:
    """The folders that head and workers mount from a claim: both see the same files there."""
    folders: list[set[str]] = []
    for name, template in pod_templates(rayjob).items():
        if name != "submitter":
            pod = template["spec"]
            claims = {volume["name"] for volume in pod.get("volumes", []) if "persistentVolumeClaim" in volume}
            mounts = pod["containers"][0].get("volumeMounts", [])
            folders.append({mount["mountPath"] for mount in mounts if mount["name"] in claims})
    return sorted(set.intersection(*folders))


def _config_path(found: StageObjects) -> str:
    """Where the head, which runs the driver, mounts the run file."""
    pod = cluster_spec(found.rayjob)["headGroupSpec"]["template"]["spec"]
    volumes = {
        volume["name"] for volume in pod.get("volumes", []) if volume.get("configMap", {}).get("name") == found.run_map
    }
    for mount in pod["containers"][0].get("volumeMounts", []):
        if mount["name"] in volumes:
            return str(mount["mountPath"]).rstrip("/")
    rule = f"its head does not mount the ConfigMap {found.run_map}"
    remedy = "Mount it, as k8s/base does; kustomize follows its name with k8s/base/names."
    raise UserError(f"RayJob {found.rayjob['metadata']['name']}", rule, remedy)


def _with_map(tree: Any, old: str, new: str) -> Any:
    """The tree with another name in each volume of this ConfigMap."""
    if isinstance(tree, list):
        return [_with_map(one, old, new) for one in tree]
    if not isinstance(tree, dict):
        return tree
    result = {key: _with_map(value, old, new) for key, value in tree.items()}
    source = result.get("configMap")
    if isinstance(source, dict) and source.get("name") == old:
        result["configMap"] = source | {"name": new}
    return result
