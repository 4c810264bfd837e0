"""The frame of a command that works on Ray: a log for what others print, and SIGTERM as Ctrl-C."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.environment import is_ray_job
from pipelines.runtime.terminal import foreign_output
from pipelines.storage.cache_folder import cache_folder

_KEPT_LOGS = 20


@contextmanager
def command_log(command: str, *, verbose: bool) -> Iterator[None]:
    """Only Raystill's own lines reach the terminal. SIGTERM raises KeyboardInterrupt. With `verbose`, and in a Ray job, nothing is hidden.

    The log is CACHE/logs/TIME-COMMAND-PID.log. The last 20 are kept.
    """
    before = signal.getsignal(signal.SIGTERM)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with foreign_output(None if verbose or is_ray_job() else _new_log(command)):
            yield
    finally:
        if in_main_thread:
            signal.signal(signal.SIGTERM, before)


def _new_log(command: str) -> Path:
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{command}-{os.getpid()}.log"
    folder = cache_folder() / "logs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / name
        log.touch(mode=0o600)
        for old in sorted(folder.glob("*.log"))[:-_KEPT_LOGS]:
            old.unlink(missing_ok=True)
    except OSError:  # the home may be read-only or full
        return Path(tempfile.mkdtemp(prefix="raystill-")) / name
    return log
