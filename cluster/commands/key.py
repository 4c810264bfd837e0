"""`raystill key NAME`: a new key for the endpoint. It is shown once; a key file holds its hash (the format: serving/api/api_keys.py)."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

from pipelines.errors import UserError
from serving.api.api_keys import key_line, new_key, parse_keys


def make_key(name: str, file: str | None, requests_per_minute: int | None, *, as_json: bool) -> None:
    """Make a key, add its line to the file where one is given, and print the key.

    Raises:
        UserError: the name breaks its rule or is taken, or the file holds something else or cannot be written.
    """
    key = new_key()
    line = key_line(name, key, requests_per_minute)
    if file is not None:
        add_line(file, name, line)
    if as_json:
        print(json.dumps({"name": name, "key": key, "line": line, "file": file}))
        return
    print(key)
    if file is None:
        print(line)
        print("The first line is the key, shown only here; the second one goes into the key file.", file=sys.stderr)
    else:
        print(f"{name} is in {file}; its key is shown only here. To revoke it, remove its line.", file=sys.stderr)


def add_line(file: str, name: str, line: str) -> None:
    """Add a key's line to a file, so that a reader sees the old content or the new one. Its mode and owner stay; a new one is 0600.

    Raises:
        UserError: as `make_key`; the file is as it was.
    """
    path = Path(os.path.realpath(file))  # the file that a link names is replaced, not the link
    if path.exists() and not path.is_file():
        raise _unwritable(file, "not a regular file")
    unfinished = path.with_name(f"{path.name}.new")
    try:
        # It is the lock too: two commands at a time would lose one of the keys.
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        rule = "another `raystill key` is writing it, or was killed while it did"
        raise UserError(str(unfinished), rule, "Try again; if it stays, remove it.") from None
    except OSError as error:
        raise _unwritable(file, str(error.strerror)) from error
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(_with_line(path, name, line))
            _keep_mode(path, descriptor)
            stream.flush()
            os.fsync(descriptor)
        os.replace(unfinished, path)
    except BaseException as error:
        unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _unwritable(file, str(error.strerror)) from error
        raise


def _with_line(path: Path, name: str, line: str) -> bytes:
    old = path.read_bytes() if path.exists() else b""
    taken = {key.name: key.origin for key in parse_keys(old, str(path))}
    if name in taken:
        remedy = "Choose another name; to revoke that key, or to renew it, remove its line first."
        raise UserError(f"key {name}", f"{taken[name]} has this name", remedy)
    if old and not old.endswith(b"\n"):
        old += b"\n"
    content = old + line.encode() + b"\n"
    parse_keys(content, str(path))  # it may have become too large
    return content


def _keep_mode(path: Path, descriptor: int) -> None:
    """Otherwise an endpoint that runs as somebody else could not read the file any more."""
    if not path.exists():
        return
    old, new = path.stat(), os.fstat(descriptor)
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        os.fchown(descriptor, old.st_uid, old.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))


def _unwritable(file: str, why: str) -> UserError:
    return UserError(f"key file {file}", f"it cannot be written ({why})", "Name another one with --file.")
