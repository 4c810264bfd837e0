"""A folder on any filesystem that pyarrow opens: a path, file://, s3://, gs:// (filesystems.py).

Writing a file is atomic for its readers. On a local disk it goes through a temporary name (`.NAME.*.tmp`, which readers of Parquet
folders pass over), fsync and rename. On an object store it is one PUT or, above 10 MB, an upload in parts, visible once the last call
completes it. A process killed earlier leaves parts that nobody sees and the owner pays for: give buckets a lifecycle rule that ends
incomplete uploads (on S3: AbortIncompleteMultipartUpload).
"""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from pipelines.errors import StageFailedError
from pipelines.storage.filesystems import join, object_store_errors, open_filesystem, shown

MANIFEST = "manifest.json"
_UNFINISHED = ".tmp"


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
