"""One driver at a time over a labels folder.

On a local disk a locked file, `.lock`, says so; the kernel lets it go with its process. It names its process for those that are refused.
On an object store it is a lease (lease.py).
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipelines.errors import UserError
from pipelines.storage.lease import FOLDER, Lease
from pipelines.storage.manifest import now
from pipelines.storage.process_identity import this_process
from pipelines.storage.store import Store

LOCK = FOLDER
"""The lock's name in the folder: of a file, or of the lease's folder."""


@contextmanager
def folder_lock(store: Store, lease_s: float) -> Iterator[Callable[[], None]]:
    """The folder's lock, while the block lasts. What it gives raises StageFailedError where the lock is lost: call it before a write.

    Raises:
        UserError: another driver has it.
    """
    if store.is_local:
        with _locked_file(store):
            yield lambda: None
        return
    with Lease(store, lease_s) as lease:
        yield lease.check


@contextmanager
def _locked_file(store: Store) -> Iterator[None]:
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
        yield


def _refusal(store: Store, said: str) -> UserError:
    try:
        holder = json.loads(said)
        who = f": process {holder['pid']} on {holder['host']} since {holder['since']}"
    except ValueError:  # it has the lock and has not written yet
        who = ""
    return UserError(store.shown(), f"another driver is labelling into it{who}", "Wait for it, or stop it.")
