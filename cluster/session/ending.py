"""The end of processes that this command has started, within bounded time: a Ray, or the nodes of `raystill up`.

`ray.shutdown` itself waits for replies of Ray's processes. On a machine whose cores are all taken, such as by the workers of the training
that was just interrupted, these came after two minutes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import psutil

_GRACE_S = 6.0
"""For `ray.shutdown`. Then the workers and their node manager are killed, which frees the cores and ends its calls to them."""
_HEAD_S = 6.0
"""After that, for its calls to the head."""
_LEFT_S = 2.0
"""For processes to end after `ray.shutdown`."""
_POLL_S = 0.1
_HEAD = "gcs_server"


class OwnRay:
    """The processes of a Ray that starts after this object is made. It kills no others."""

    def __init__(self) -> None:
        self._before = {child.pid for child in psutil.Process().children()}
        self._roots: list[psutil.Process] = []

    def started(self) -> None:
        """Call it when `ray.init` has returned or failed."""
        self._roots = [child for child in psutil.Process().children() if child.pid not in self._before]

    def shutdown(self) -> None:
        """`ray.shutdown()`. No process of this Ray runs after it."""
        import ray

        if not self._roots:  # a cluster, or a Ray that did not start
            ray.shutdown()
            return
        family = self._family()
        done = threading.Event()
        guard = threading.Thread(target=self._kill_late, args=(family, done), daemon=True, name="end-of-ray")
        guard.start()
        try:
            ray.shutdown()
        finally:
            done.set()
            end_processes(family, _LEFT_S)

    def _kill_late(self, family: Sequence[psutil.Process], done: threading.Event) -> None:
        if done.wait(_GRACE_S):
            return
        print(f"Ray does not end by itself within {_GRACE_S:g} s; its processes are killed", flush=True)  # to the log
        # The head last: without it, calls of this process wait a minute for another one.
        _kill([one for one in {*family, *self._family()} if _name(one) != _HEAD])
        if not done.wait(_HEAD_S):
            _kill(family)

    def _family(self) -> list[psutil.Process]:
        """The processes that run now: those that `ray.init` has started, and theirs."""
        found = []
        for root in self._roots:
            try:
                found += [root, *root.children(recursive=True)]
            except psutil.NoSuchProcess:
                continue
        return found


def end_processes(family: Sequence[psutil.Process], seconds: float) -> None:
    """Wait until processes have ended, and kill those that remain. Zombies count as ended: not every process 1 reaps orphans."""
    until = time.monotonic() + seconds
    while (left := [process for process in family if _runs(process)]) and time.monotonic() < until:
        time.sleep(_POLL_S)
    _kill(left)


def _kill(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        try:
            process.kill()  # only if the number still belongs to the same process
        except psutil.NoSuchProcess:
            continue


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.NoSuchProcess:
        return ""


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
