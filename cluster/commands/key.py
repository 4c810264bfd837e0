"""`raystill key NAME`: a new key for the endpoint, printed once. A key file holds its hash (format: serving/api/api_keys.py)."""

from __future__ import annotations

import fcntl
import json
import os
import sys
from functools import partial
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
    """Append a key's line to a file, in one write. Concurrent commands wait for each other. A new file gets mode 0600.

    Raises:
        UserError: as `make_key`; the file is unchanged.
    """
    path = Path(file)
    if path.exists() and not path.is_file():
        raise _unwritable(file, "not a regular file")
    try:
        with open(path, "ab+", buffering=0, opener=partial(os.open, mode=0o600)) as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            stream.seek(0)
            content = stream.read()
            origins = {key.name: key.origin for key in parse_keys(content, file)}
            if name in origins:
                remedy = "Choose another name. To revoke or renew that key, remove its line first."
                raise UserError(f"key {name}", f"{origins[name]} has this name", remedy)
            added = (b"\n" if content and not content.endswith(b"\n") else b"") + line.encode() + b"\n"
            parse_keys(content + added, file)  # refuses a file that would become too large
            stream.write(added)
    except OSError as error:
        raise _unwritable(file, str(error.strerror)) from error


def _unwritable(file: str, reason: str) -> UserError:
    return UserError(f"key file {file}", f"it cannot be written ({reason})", "Name another file with --file.")
