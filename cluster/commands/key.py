"""`raystill key NAME`: a new key for the endpoint, printed once. A key file holds its hash (format: serving/api/api_keys.py)."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

from pipelines.errors import UserError
from serving.api.api_keys import key_line, new_key, parse_keys


def make_key(name: str, file: str | None, requests_per_minute: int | None, *, as_json: bool) -> None:
    """Make a key, add its line to the file if one is given, and print the key.

    Raises:
        UserError: the name is invalid or taken, or the file cannot be written or is no key file.
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
        print("The first line is the key; store it now. Add the second line to the key file.", file=sys.stderr)
    else:
        print(f"Added {name} to {file}. Store the key now. To revoke it, remove its line.", file=sys.stderr)


def add_line(file: str, name: str, line: str) -> None:
    """Add a key's line to a file. A reader sees the old content or the new. Mode and owner stay; a new file gets 0600.

    Raises:
        UserError: as `make_key`; the file is unchanged.
    """
    path = Path(os.path.realpath(file))  # replace the target of a link, not the link
    if path.exists() and not path.is_file():
        raise _unwritable(file, "not a regular file")
    unfinished = path.with_name(f"{path.name}.new")
    try:
        # O_EXCL makes it a lock too: two concurrent commands would lose a key.
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        rule = "another `raystill key` is writing it, or was killed while writing"
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
    """The file's content with one more line."""
    content = path.read_bytes() if path.exists() else b""
    origins = {key.name: key.origin for key in parse_keys(content, str(path))}
    if name in origins:
        remedy = "Choose another name. To revoke or renew that key, remove its line first."
        raise UserError(f"key {name}", f"{origins[name]} has this name", remedy)
    if content and not content.endswith(b"\n"):
        content += b"\n"
    content += line.encode() + b"\n"
    parse_keys(content, str(path))  # refuses a file that has become too large
    return content


def _keep_mode(path: Path, descriptor: int) -> None:
    """Give the new file the old one's owner and mode: an endpoint that runs as another user must still read it."""
    if not path.exists():
        return
    old, new = path.stat(), os.fstat(descriptor)
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        os.fchown(descriptor, old.st_uid, old.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))


def _unwritable(file: str, reason: str) -> UserError:
    return UserError(f"key file {file}", f"it cannot be written ({reason})", "Name another file with --file.")
