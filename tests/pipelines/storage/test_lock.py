import fcntl
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack
from io import TextIOWrapper
from pathlib import Path

import pytest

from pipelines.errors import UserError
from pipelines.storage.lock import LOCK, folder_lock
from pipelines.storage.store import Store

HOLDER = """
import sys
from pipelines.storage.lock import folder_lock
from pipelines.storage.store import Store
with folder_lock(Store(sys.argv[1]), 60.0):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_killed_driver_releases_a_local_folder(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "labels"))
    command = [sys.executable, "-c", HOLDER, store.root]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        host = re.escape(os.uname().nodename)
        named = f"another driver is labelling into it: process {holder.pid} on {host} since 2"
        for _ in range(2):  # a refused driver leaves the lock unchanged
            with pytest.raises(UserError, match=named), folder_lock(store, 60.0):
                pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with folder_lock(store, 60.0) as check:
        check()
        assert json.loads((tmp_path / "labels" / LOCK).read_text())["pid"] == os.getpid()


def test_clearing_a_folder_keeps_its_lock(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "labels"))
    with folder_lock(store, 60.0, "train"):
        store.write("data/part-000000.parquet", b"x")
        store.write("manifest.json", b"{}")
        store.clear(LOCK)
        assert [path.name for path in (tmp_path / "labels").iterdir()] == [LOCK]
        with pytest.raises(UserError, match="another driver is training into it"), folder_lock(store, 60.0, "train"):
            pass
    assert not any((tmp_path / "labels").iterdir()), "a finished folder keeps no lock"


def test_a_lock_that_its_holder_removes_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first holder ends between the second one's opening of the file and its lock."""
    store, first, flock = Store(str(tmp_path)), ExitStack(), fcntl.flock
    first.enter_context(folder_lock(store, 60.0))

    def late(file: TextIOWrapper, how: int) -> None:
        first.close()
        flock(file, how)

    monkeypatch.setattr("pipelines.storage.lock.fcntl.flock", late)
    with folder_lock(store, 60.0) as check:
        check()
