"""The files that a corpus setting names.

In: the value of `corpus.train`, `corpus.validation` or `corpus.test`, or a list of such values. Out: files, in corpus order.

    data/train.jsonl                a file; its name gives its format (formats/)
    data/*.parquet, data/**/*.csv   a glob, sorted: `*` stays within a folder, `**` does not
    data/                           a folder: the data files below it, sorted, except names that begin with `.` or `_`
    saved/  saved/train             a folder of `datasets.Dataset.save_to_disk`; a saved DatasetDict needs the split
    s3://bucket/data/*.jsonl?region=eu-west-1        any of these on an object store (storage/filesystems.py)
    hf://OWNER/NAME:train           a data set of the hub (hub.py)
"""

from __future__ import annotations

import fnmatch
import json
from typing import Any

from pipelines.data.formats import format_of, suffixes
from pipelines.data.hub import HUB, hub_files
from pipelines.errors import UserError
from pipelines.storage.filesystems import ancestor, join, object_store_errors, open_filesystem, shown
from pipelines.storage.fingerprint import file_fingerprint
from pipelines.storage.store import Store

_SAVED, _SAVED_DICT = "state.json", "dataset_dict.json"
_NO_DATA = {_SAVED, _SAVED_DICT, "dataset_info.json", "dataset_infos.json"}


def corpus_files(named: str | list[str], key: str) -> list[str]:
    """The files that a corpus setting names, in corpus order.

    Args:
        key: of the setting, for messages.

    Raises:
        UserError: nothing is there, or a file has no known format.
    """
    patterns = [named] if isinstance(named, str) else named
    files = [uri for pattern in patterns for uri in _expand(pattern, key)]
    if not files:
        raise UserError(shown(f"{key} {named}"), "it names no files", "Name JSON Lines, CSV, Parquet or Arrow files.")
    for uri in files:
        file_format(uri, key)
    return files


def file_format(uri: str, key: str = "corpus") -> str:
    """The format of a file, by its name. Raises UserError for an unknown suffix."""
    kind = format_of(uri)
    if kind is None:
        rule = "neither JSON Lines, CSV, Parquet, Arrow nor Lance by its name"
        known = f"Known: {', '.join(suffixes())}; JSON Lines and CSV also with .gz, .zst or .bz2."
        raise UserError(f"{key} {shown(uri)}", rule, known)
    return kind


def file_size(uri: str) -> int:
    """Bytes of a file, or of the files in a folder that is one data set; 0 if it does not exist."""
    filesystem, path = open_filesystem(uri)
    with object_store_errors(uri):
        size = filesystem.get_file_info(path).size
    return int(size or 0) if not _is_folder_format(uri) else sum(Store(uri).sizes().values())


def file_state(uri: str) -> str:
    """Size and time of the last change of a file: another one if the file is written again."""
    if _is_folder_format(uri):
        return file_fingerprint(uri)
    filesystem, path = open_filesystem(uri)
    with object_store_errors(uri):
        info = filesystem.get_file_info(path)
    return f"{info.size} bytes, {info.mtime_ns}"


def _is_folder_format(uri: str) -> bool:
    """True if the name is that of a data set which is a folder, and opens as one file."""
    return format_of(uri) == "lance"


def _expand(pattern: str, key: str) -> list[str]:
    from pyarrow.fs import FileType

    if not pattern.strip():
        raise UserError(key, "it is empty", "Name JSON Lines, CSV, Parquet or Arrow files.")
    if pattern.startswith(HUB):
        return hub_files(pattern, key)
    segments = _segments(pattern)
    wild = next((i for i, segment in enumerate(segments) if any(c in segment for c in "*?[")), None)
    with object_store_errors(pattern):
        if wild is None or _is_local_file(pattern):
            filesystem, path = open_filesystem(pattern)
            kind = filesystem.get_file_info(path).type
            if kind == FileType.NotFound:
                rule = "there is no such file or folder"
                raise UserError(f"{key} {shown(pattern)}", rule, "Name an existing corpus.")
            is_one = kind == FileType.File or _is_folder_format(pattern)
            return [pattern] if is_one else _folder_files(pattern, key)
        below = "/".join(segments[wild:])
        folder = ancestor(pattern, len(segments) - wild)
        deep = wild < len(segments) - 1
        found = [name for name in _names_below(folder, recursive=deep) if _matches(name.split("/"), below.split("/"))]
    return [join(folder, name) for name in found]


def _segments(pattern: str) -> list[str]:
    return (pattern.partition("?")[0] if "://" in pattern else pattern).rstrip("/").split("/")


def _is_local_file(pattern: str) -> bool:
    """True if a local file has this very name, glob characters included."""
    from pyarrow.fs import FileType

    if "://" in pattern:
        return False
    filesystem, path = open_filesystem(pattern)
    return bool(filesystem.get_file_info(path).type == FileType.File)


def _names_below(folder: str, *, recursive: bool) -> list[str]:
    """Paths of the files below a folder, relative to it, sorted."""
    from pyarrow.fs import FileSelector, FileType

    filesystem, root = open_filesystem(folder)
    found = filesystem.get_file_info(FileSelector(root or "/", recursive=recursive, allow_not_found=True))
    return sorted(i.path.removeprefix(root).lstrip("/") for i in found if i.type == FileType.File)


def _matches(path: list[str], pattern: list[str]) -> bool:
    if not pattern:
        return not path
    if pattern[0] == "**":
        return _matches(path, pattern[1:]) or (bool(path) and _matches(path[1:], pattern))
    return bool(path) and fnmatch.fnmatchcase(path[0], pattern[0]) and _matches(path[1:], pattern[1:])


def _folder_files(folder: str, key: str) -> list[str]:
    names = _names_below(folder, recursive=True)
    if _SAVED_DICT in names:
        splits = sorted(_read_json(folder, _SAVED_DICT, key).get("splits", []))
        rule = f"a saved DatasetDict with the splits {', '.join(splits)}"
        raise UserError(f"{key} {shown(folder)}", rule, f"Name one of them: {shown(join(folder, splits[0]))}.")
    if _SAVED in names:
        return _saved_files(folder, key)
    return [join(folder, name) for name in names if _is_data(name)]


def _is_data(name: str) -> bool:
    hidden = any(part.startswith((".", "_")) for part in name.split("/"))
    return not hidden and format_of(name) not in (None, "lance") and name.rpartition("/")[2] not in _NO_DATA


def _saved_files(folder: str, key: str) -> list[str]:
    """The Arrow files of a saved Dataset, in the order of its state file."""
    state = _read_json(folder, _SAVED, key)
    try:
        if state.get("_indices_data_files"):
            rule = "a Dataset that an old version of `datasets` saved, with its rows in another order than its files"
            raise UserError(f"{key} {shown(folder)}", rule, "Load it and save it again with a current version.")
        return [join(folder, file["filename"]) for file in state["_data_files"]]
    except (KeyError, TypeError) as error:
        raise UserError(f"{key} {shown(join(folder, _SAVED))}", "it names no data files", "Save it again.") from error


def _read_json(folder: str, name: str, key: str) -> dict[str, Any]:
    uri = join(folder, name)
    filesystem, path = open_filesystem(uri)
    try:
        with filesystem.open_input_stream(path) as stream:
            content = json.loads(stream.read())
    except ValueError as error:
        raise UserError(f"{key} {shown(uri)}", f"not JSON ({error})", "Save the data set again.") from error
    return content if isinstance(content, dict) else {}
