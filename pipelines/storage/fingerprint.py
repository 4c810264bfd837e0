"""Fingerprints: SHA-256 of everything that decides an artifact's content.

Covers the relevant configuration, the fingerprints of the inputs and the format version of the stage. Excludes paths of this machine.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel

from pipelines.errors import UserError
from pipelines.storage.filesystems import object_store_errors, open_filesystem
from pipelines.storage.store import CONTENT, MANIFEST, PROGRESS, Store

_SAMPLED_BYTES = 1 << 20
_COMMITTED = re.compile(r"hf://datasets/[^@]+@[0-9a-f]{40}/.")
"""A file of a commit of the hub."""
_BESIDE = (MANIFEST, PROGRESS, CONTENT)
"""Files of ours in a student's folder that are no part of the model."""


class FileHash(BaseModel):
    """Size and content of a file of an artifact, as manifests name it."""

    bytes: int
    sha256: str


def fingerprint(identity: Mapping[str, object]) -> str:
    """SHA-256 of the canonical JSON of an identity: sorted keys, no spaces, UTF-8."""
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def file_fingerprint(uri: str, *, whole: bool = False) -> str:
    """SHA-256 of a file's size and content; of a folder that is one data set, of the names and sizes of its files, which are never edited.

    Unless `whole`, files over 256 MiB are fingerprinted by size, first and last MiB. Edits in the middle then go unnoticed.
    """
    if _COMMITTED.match(uri):  # nothing else can stand behind this name
        return hashlib.sha256(uri.encode()).hexdigest()
    filesystem, path = open_filesystem(uri)
    if filesystem.get_file_info(path).type.name == "Directory":
        return fingerprint(Store(uri).sizes())
    with object_store_errors(uri), filesystem.open_input_file(path) as file:
        size = file.size()
        digest = hashlib.sha256(str(size).encode())
        if whole or size <= 256 * _SAMPLED_BYTES:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
        else:
            digest.update(file.read(_SAMPLED_BYTES))
            file.seek(size - _SAMPLED_BYTES)
            digest.update(file.read(_SAMPLED_BYTES))
    return digest.hexdigest()


def model_fingerprint(model: str, of_files: Callable[[Sequence[str]], list[str]] | None = None) -> str:
    """Identity of a model: a hub id itself, or the fingerprint of a folder's files, independent of its path.

    Args:
        of_files: the fingerprints of files; None: `file_fingerprint` of each.

    Raises:
        UserError: a file of the folder is not readable.
    """
    folder, of_files = Path(model).expanduser(), of_files or (lambda uris: [file_fingerprint(uri) for uri in uris])
    if not folder.is_dir():
        return model
    names = sorted(
        p for p in folder.iterdir() if p.is_file() and p.suffix in {".json", ".safetensors", ".model", ".jinja"}
    )
    names = [p for p in names if p.name not in _BESIDE]
    try:
        return fingerprint({p.name: found for p, found in zip(names, of_files([str(p) for p in names]), strict=True)})
    except PermissionError as error:
        rule = f"a file is not readable ({' '.join(str(error).split())})"
        raise UserError(model, rule, "Grant this user read access to all files of the folder.") from error
