"""One driver at a time in a labels folder.

On a local disk the lock is a locked file, `.lock`, that names its process. The kernel releases it with the process.
On an object store the lock is a lease (lease.py).
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipelines.errors import StageFailedError, UserError
from pipelines.storage.lease import FOLDER, Lease
from pipelines.storage.manifest import now
from pipelines.storage.process_identity import this_process
from pipelines.storage.store import Store

LOCK = FOLDER
"""Name of the lock in the folder: a file, or the folder of a lease."""


@contextmanager
def folder_lock(store: Store, lease_s: float) -> Iterator[Callable[[], None]]:
    """Hold the folder's lock while the block runs. Yields a check that raises StageFailedError if the lock is lost.

    Call the check before each write.

    Raises:
        UserError: another driver holds the lock.
    """
    if store.is_local:
        with _locked_file(store) as check:
            yield check
        return
    with Lease(store, lease_s) as lease:
        yield lease.check


@contextmanager
def _locked_file(store: Store) -> Iterator[Callable[[], None]]:
    store.fs.create_dir(store.root, recursive=True)
    with open(store.path(LOCK), "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise _refusal(store, file.read()) from error
        file.truncate(0)
        json.dump({**this_process(), "since": now()}, file)
        file.flush()
        held = os.fstat(file.fileno())

        def check() -> None:
            try:
                found = os.stat(store.path(LOCK))
            except FileNotFoundError:
                found = None
            # Somebody removed the file: another driver can lock a new one.
            if found is None or (found.st_dev, found.st_ino) != (held.st_dev, held.st_ino):
                rule = f"{store.shown(LOCK)} was removed while this process held it, so another driver may write here"
                raise StageFailedError(f"{rule}. Finished rows are kept. Run the same command to resume.")

        yield check


def _refusal(store: Store, content: str) -> UserError:
    try:
        holder = json.loads(content)
        named = f": process {holder['pid']} on {holder['host']} since {holder['since']}"
    except ValueError:  # the holder has not written its name yet
        named = ""
    return UserError(store.shown(), f"another driver is labelling into it{named}", "Wait for it, or stop it.")
