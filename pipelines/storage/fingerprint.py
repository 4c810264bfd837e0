"""Fingerprints: the SHA-256 of what decides an artifact's content.

That is the configuration that matters, the fingerprints of its inputs and the stage's format version. Paths of this machine are not
part of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.errors import UserError
from pipelines.storage.filesystems import object_store_errors, open_filesystem
from pipelines.storage.store import MANIFEST

_SAMPLED_BYTES = 1 << 20


def fingerprint(identity: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of what decides an artifact's content."""
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


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
