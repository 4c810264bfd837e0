"""What a student is, by the content of its files: weights, configuration and tokenizer.

A student's manifest names size and SHA-256 of each file. Engines compare them when they load a student, about 1 s per GB. Students of 0.1
have no hashes: the first look writes them beside the manifest, into content.json.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ValidationError

from pipelines.errors import UserError
from pipelines.storage.fingerprint import FileHash
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import CONTENT, MANIFEST, PROGRESS, Store

CONVERTED = "converted.json"
"""In a folder of converted weights: what they were converted from, and their own hashes."""
_BESIDE = {MANIFEST, PROGRESS, CONTENT, CONVERTED, "README.md", "training.jsonl", "deepspeed.json"}
"""Files that no engine reads."""
_READ_BY_ENGINES = (".json", ".jinja", ".model", ".txt", ".safetensors", ".bin")
_CHUNK = 1 << 22
_logger = logging.getLogger(__name__)


class _Content(BaseModel):
    """CONTENT."""

    manifest: str
    """SHA-256 of the manifest that the hashes belong to."""
    files: dict[str, FileHash]


def hash_files(store: Store) -> dict[str, FileHash]:
    """Read the files of a student that engines read, by name."""
    return {name: _hash(store, name) for name in _names(store)}


def content_id(files: Mapping[str, FileHash]) -> str:
    """SHA-256 over names and hashes of a student's files: equal students have equal ids, wherever they are."""
    lines = "".join(f"{files[name].sha256}  {name}\n" for name in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


def student_files(store: Store, manifest: Manifest) -> dict[str, FileHash]:
    """The files of a finished student as its manifest names them. For a student of 0.1: as the first look found them."""
    recorded = manifest.details.get("files")
    if recorded:
        return {name: FileHash.model_validate(file) for name, file in recorded.items()}
    mark = hashlib.sha256(store.read(MANIFEST)).hexdigest()
    try:
        content = _Content.model_validate_json(store.read(CONTENT))
        if content.manifest == mark:
            return content.files
    except (FileNotFoundError, ValidationError):
        pass
    content = _Content(manifest=mark, files=hash_files(store))
    try:
        store.write(CONTENT, content.model_dump_json(indent=2).encode())
    except (OSError, UserError) as error:  # a read-only folder is read at each look
        _logger.warning("%s: the hashes cannot be stored (%s)", store.shown(CONTENT), error)
    return content.files


def check_content(copy: Store, files: Mapping[str, FileHash], shown: str) -> None:
    """Compare the files of a student with their hashes.

    Args:
        copy: the student, or a local copy of it.
        files: `student_files`.
        shown: the student's place, for messages.

    Raises:
        UserError: a file is missing, has another content, or belongs to another student.
    """
    remedy = "Restore the file, or train again: `raystill train RUN --replace`."
    sizes = copy.sizes()
    for name, file in files.items():
        if name not in sizes:
            raise UserError(f"{shown}: {name}", "the file is missing", remedy)
        if sizes[name] != file.bytes or _hash(copy, name) != file:
            raise UserError(f"{shown}: {name}", "its content is not that of the trained student", remedy)
    for name in sizes:
        if "/" not in name and name not in files and name not in _BESIDE and name.endswith(_READ_BY_ENGINES):
            raise UserError(f"{shown}: {name}", "the file does not belong to this student", "Remove it.")


def damage(store: Store, manifest: Manifest, *, read: bool) -> str | None:
    """What is wrong with the files of a finished student; None if nothing is, or if its manifest names no files, as in 0.1.

    Args:
        read: compare the content of the files too, not their sizes alone.
    """
    files = {name: FileHash.model_validate(file) for name, file in manifest.details.get("files", {}).items()}
    sizes = store.sizes(recursive=False) if files else {}
    for name, file in files.items():
        if name not in sizes:
            return f"damaged ({name} is missing)"
        if sizes[name] != file.bytes or (read and _hash(store, name) != file):
            return f"damaged ({name} has another content)"
    return None


@contextmanager
def checked_copy(store: Store, manifest: Manifest) -> Iterator[Path]:
    """A finished student as a local folder whose content has been compared with the manifest. For an object store: a temporary copy.

    Raises:
        UserError: as `check_content`.
    """
    files = student_files(store, manifest)
    with store.local_copy() as folder:
        check_content(Store(str(folder)), files, store.shown())
        yield folder


def _names(store: Store) -> list[str]:
    return [name for name in store.files() if "/" not in name and name not in _BESIDE and not name.startswith(".")]


def _hash(store: Store, name: str) -> FileHash:
    digest, size = hashlib.sha256(), 0
    with store.fs.open_input_stream(store.path(name)) as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return FileHash(bytes=size, sha256=digest.hexdigest())
