"""Fingerprints of large files that this user's commands have read before: `fingerprints.json` in the cache folder.

    {"/data/train.jsonl": ["250000000 bytes, 1767225600000000000", "9f86d0..."]}

An entry counts while size and time of the last change stay the same. A file that changed less than two seconds before it was read gets
none, since it may change again within the resolution of that time. Without a writable folder nothing is remembered.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

from pydantic import TypeAdapter, ValidationError

from pipelines.storage.cache_folder import cache_folder
from pipelines.storage.filesystems import object_store_errors, open_filesystem
from pipelines.storage.fingerprint import file_fingerprint, model_fingerprint
from pipelines.storage.store import Store

MIN_BYTES = 1 << 20
"""Smaller files are read each time."""
_FILE = "fingerprints.json"
_MAX_ENTRIES = 100_000
_REQUESTS = 16
_UNSETTLED_NS = 2_000_000_000
_Entries = dict[str, tuple[str, str]]
_ENTRIES = TypeAdapter(_Entries)


def weights_fingerprint(model: str) -> str:
    """`model_fingerprint` that reads large files as a whole, and so sees any changed weight. The same if no file is over 256 MiB."""
    return model_fingerprint(model, partial(file_fingerprints, whole=True))


def file_fingerprints(uris: Sequence[str], *, whole: bool = False) -> list[str]:
    """`file_fingerprint` of each file. Many are read at the same time, and unchanged ones not again."""
    known = _read()
    with ThreadPoolExecutor(_REQUESTS) as pool:
        found = list(pool.map(lambda uri: _fingerprint(uri, known, whole), uris))
    new = {name: entry for entries, _ in found for name, entry in entries.items()}
    if new:
        _write(known | new)
    return [value for _, value in found]


def _fingerprint(uri: str, known: _Entries, whole: bool) -> tuple[_Entries, str]:
    """(new entry of the cache, if any; the fingerprint)."""
    filesystem, path = open_filesystem(uri)
    with object_store_errors(uri):
        info = filesystem.get_file_info(path)
    if (info.size or 0) < MIN_BYTES or not info.mtime_ns:
        return {}, file_fingerprint(uri, whole=whole)
    name, state = path if filesystem.type_name == "local" else uri, f"{info.size} bytes, {info.mtime_ns}"
    name += " as a whole" if whole else ""
    if name in known and known[name][0] == state:
        return {}, known[name][1]
    settled = time.time_ns() - info.mtime_ns > _UNSETTLED_NS
    value = file_fingerprint(uri, whole=whole)
    return ({name: (state, value)} if settled else {}), value


def _read() -> _Entries:
    with suppress(OSError, ValidationError):
        return _ENTRIES.validate_json((cache_folder() / _FILE).read_bytes())
    return {}


def _write(entries: _Entries) -> None:
    kept = dict(list(entries.items())[-_MAX_ENTRIES:])
    with suppress(OSError):
        Store(str(cache_folder())).write(_FILE, json.dumps(kept).encode(), durable=False)
