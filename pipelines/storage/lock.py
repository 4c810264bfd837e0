"""One driver at a time in the folder of an artifact.

On a local disk the lock is a locked file, `.lock`, that names its process. The kernel releases it with the process, so that a file that
a killed driver left stops nobody. On an object store the lock is a lease (lease.py).
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path

from pipelines.errors import StageFailedError, UserError
from pipelines.storage.lease import FOLDER, Lease, LockedStage, held_by_another
from pipelines.storage.manifest import now
from pipelines.storage.process_identity import this_process
from pipelines.storage.store import Store

LOCK = FOLDER
"""Name of the lock in the folder: a file, or the folder of a lease."""


@contextmanager
def folder_lock(store: Store, lease_s: float, stage: LockedStage = "label") -> Iterator[Callable[[], None]]:
    """Hold the folder's lock while the block runs. Yields a check that raises StageFailedError if the lock is lost.

    Call the check before each write.

    Args:
        lease_s: `labelling.lease_s`, for object stores.
        stage: what the holder does there, for messages.

    Raises:
        UserError: another driver holds the lock.
    """
    if store.is_local:
        with _locked_file(store, stage) as check:
            yield check
        return
    with Lease(store, lease_s, stage) as lease:
        yield lease.check


@contextmanager
def _locked_file(store: Store, stage: LockedStage) -> Iterator[Callable[[], None]]:
    store.fs.create_dir(store.root, recursive=True)
    with _open_locked(store, stage) as file:
        file.truncate(0)
        json.dump({**this_process(), "since": now()}, file)
        file.flush()

        def check() -> None:
            # Somebody removed the file: another driver can lock a new one.
            if not _is_in_place(store, file):
                rule = f"{store.shown(LOCK)} was removed while this process held it, so another driver may write here"
                raise StageFailedError(f"{rule}. Finished work is kept. Run the same command to resume.")

        try:
            yield check
        finally:
            if _is_in_place(store, file):
                Path(store.path(LOCK)).unlink(missing_ok=True)


def _open_locked(store: Store, stage: LockedStage) -> TextIOWrapper:
    """The lock file, open and locked. Its holder removes it: one that was opened before that is no lock any more."""
    while True:
        file = open(store.path(LOCK), "a+", encoding="utf-8")  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            with file:
                raise _refusal(store, stage, file.read()) from error
        if _is_in_place(store, file):
            return file
        file.close()


def _is_in_place(store: Store, file: TextIOWrapper) -> bool:
    """True if the folder's lock is this open file."""
    held = os.fstat(file.fileno())
    try:
        found = os.stat(store.path(LOCK))
    except FileNotFoundError:
        return False
    return (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino)


def _refusal(store: Store, stage: LockedStage, content: str) -> UserError:
    try:
        holder = json.loads(content)
        named = f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except ValueError:  # the holder has not written its name yet
        named = ""
    return held_by_another(store, stage, named)
