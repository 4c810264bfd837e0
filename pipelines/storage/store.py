"""A folder on any filesystem that pyarrow opens: a path, file://, s3://, gs:// (filesystems.py).

Readers see a written file whole or not at all. On a local disk, a write is a temporary file (`.NAME.*.tmp`, which readers of Parquet
folders skip), fsync and rename. On an object store it is one PUT or, above 10 MB, a multipart upload that its last call makes visible.
A process killed before that call leaves invisible parts, which cost money. Give buckets a lifecycle rule that ends incomplete uploads
(on S3: AbortIncompleteMultipartUpload).
"""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from pipelines.storage.filesystems import join, object_store_errors, open_filesystem, shown

MANIFEST = "manifest.json"
PROGRESS = "progress.json"
"""Written while a stage works on the folder, and no part of its artifact."""
CONTENT = "content.json"
"""Hashes of a student of 0.1 (students/content.py), written when it is first loaded."""
UNFINISHED = ".tmp"
"""End of the name of a file that is being written to a local disk."""


class Store:
    """A folder, local or on an object store. File names are relative to it and use `/`.

    Every method raises UserError if the bucket does not exist, refuses the credentials or has an unreachable endpoint.
    """

    def __init__(self, uri: str) -> None:
        location, mark, query = uri.partition("?")
        is_uri = "://" in uri
        self.uri = f"{location.rstrip('/')}{mark}{query}" if is_uri else str(Path(uri).expanduser().absolute())
        self.fs, self.root = open_filesystem(self.uri)
        self.is_local: bool = self.fs.type_name == "local"

    def child(self, name: str) -> Store:
        """Store of a folder in this one."""
        return Store(join(self.uri, name))

    def path(self, name: str = "") -> str:
        """Path of a name in the filesystem `fs`."""
        return f"{self.root}/{name}" if name else self.root

    def shown(self, name: str = "") -> str:
        """Path or URI of a name without credentials, for messages."""
        return shown(join(self.uri, name) if name else self.uri)

    def exists(self, name: str = "") -> bool:
        """True if the file or folder exists. A folder of an object store exists while it has files."""
        from pyarrow.fs import FileType

        with object_store_errors(self.uri):
            return bool(self.fs.get_file_info(self.path(name)).type != FileType.NotFound)

    def files(self, folder: str = "", suffix: str = "", *, recursive: bool = True) -> list[str]:
        """Names of the files below a folder, sorted, without unfinished ones. Empty if the folder does not exist.

        Args:
            recursive: False lists the folder alone. An object store lists 1,000 names per request.
        """
        names = self.sizes(folder, recursive=recursive)
        return [name for name in names if name.endswith(suffix) and not name.endswith(UNFINISHED)]

    def unfinished(self, folder: str = "") -> list[str]:
        """Names of temporary files of running or killed writers. Empty on an object store, which does not list them."""
        return [name for name in self.sizes(folder) if name.endswith(UNFINISHED)] if self.is_local else []

    def sizes(self, folder: str = "", *, recursive: bool = True) -> dict[str, int]:
        """Bytes of each file below a folder, by name, sorted. Empty if the folder does not exist."""
        from pyarrow.fs import FileSelector, FileType

        selector = FileSelector(self.path(folder), recursive=recursive, allow_not_found=True)
        with object_store_errors(self.uri):
            found = [info for info in self.fs.get_file_info(selector) if info.type == FileType.File]
        return dict(sorted((info.path.removeprefix(self.root).lstrip("/"), info.size) for info in found))

    def read(self, name: str) -> bytes:
        """Content of a file. Raises FileNotFoundError if the file does not exist."""
        with object_store_errors(self.uri), self.fs.open_input_stream(self.path(name)) as stream:
            return cast(bytes, stream.read())

    def write(self, name: str, data: bytes, *, durable: bool = True) -> None:
        """Write a file atomically, even if this process is killed meanwhile."""
        with self.writing(name, durable=durable) as file:
            file.write(data)

    @contextmanager
    def writing(self, name: str, *, durable: bool = True) -> Iterator[Any]:
        """Open a binary file that appears when the block ends. After an error or a kill it never appears.

        An existing file of the same name stays until the block ends. On an object store, an error in the block removes it; a kill
        does not.

        Args:
            durable: False skips fsync, so that a power failure may lose the file. For progress files, which are written often.
        """
        path = self.path(name)
        with object_store_errors(self.uri):
            if not self.is_local:
                with _published(self.fs, path) as stream:
                    yield stream
                return
            folder, _, last = path.rpartition("/")
            os.makedirs(folder, exist_ok=True)
            temporary = f"{folder}/.{last}.{uuid.uuid4().hex}{UNFINISHED}"
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
        """The store as a local folder. For an object store: a temporary copy, removed when the block ends."""
        from pyarrow.fs import copy_files

        if self.is_local:
            yield Path(self.root)
            return
        with tempfile.TemporaryDirectory(prefix="raystill-") as folder:
            with object_store_errors(self.uri):
                copy_files(self.root, folder, source_filesystem=self.fs)
            yield Path(folder)

    def delete(self, name: str) -> None:
        """Remove a file if it exists."""
        with object_store_errors(self.uri), suppress(FileNotFoundError):
            self.fs.delete_file(self.path(name))

    def move(self, name: str, to: str) -> None:
        """Rename a file; on an object store, copy and delete it. A kill leaves it under one name or both."""
        with object_store_errors(self.uri):
            if self.is_local:
                os.makedirs(self.path(to).rpartition("/")[0], exist_ok=True)
            self.fs.move(self.path(name), self.path(to))

    def clear(self, *keep: str) -> None:
        """Remove the folder with its content. The manifest goes first, so that the artifact never looks finished.

        Args:
            keep: files or folders directly in this folder that stay, with temporary files of their running writer.
        """
        from pyarrow.fs import FileSelector, FileType

        self.delete(MANIFEST)
        with object_store_errors(self.uri):
            if not keep and "/" in self.root:  # a bucket itself stays
                if self.exists():
                    self.fs.delete_dir(self.root)
                return
            for entry in self.fs.get_file_info(FileSelector(self.root, allow_not_found=True)):
                if entry.base_name in keep or entry.base_name.startswith(tuple(f".{name}." for name in keep)):
                    continue
                remove = self.fs.delete_dir if entry.type == FileType.Directory else self.fs.delete_file
                remove(entry.path)


@contextmanager
def _published(filesystem: Any, path: str) -> Iterator[Any]:
    """Upload an object. The store shows it when the block ends, and never if this process dies before."""
    stream = filesystem.open_output_stream(path)
    try:
        yield stream
    except BaseException:
        # pyarrow cannot abort an upload; it even completes a garbage-collected one. So complete the upload, then delete the object.
        stream.close()
        filesystem.delete_file(path)
        raise
    stream.close()


def _sync_folder(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
