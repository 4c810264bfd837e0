"""The frame of a command that works on Ray: a log for what others print."""

from __future__ import annotations

import os
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from cluster.environment import is_ray_job
from pipelines.errors import StageFailedError
from pipelines.runtime.terminal import foreign_output, has_log
from pipelines.storage.cache_folder import cache_folder

_KEPT_LOGS = 20


@contextmanager
def command_log(command: str, *, verbose: bool) -> Iterator[None]:
    """Only Raystill's own lines reach the terminal. With `verbose`, and in a Ray job, nothing is hidden.

    The log is CACHE/logs/TIME-COMMAND-PID.log. An error that ends the command adds its traceback with those of workers, unless it is the
    user's. The last 20 logs are kept, and those of commands that run.
    """
    with foreign_output(None if verbose or is_ray_job() else new_log(command)), _traceback_in_log():
        yield


@contextmanager
def _traceback_in_log() -> Iterator[None]:
    """The terminal shows one line of an error. What it hides is for the log that the line before it names."""
    try:
        yield
    except StageFailedError:
        if has_log():
            traceback.print_exc()
        raise


def new_log(command: str) -> Path:
    """An empty log. Removes old ones of commands that have ended."""
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{command}-{os.getpid()}.log"
    folder = cache_folder() / "logs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / name
        log.touch(mode=0o600)
        for old in sorted(folder.glob("*.log"))[:-_KEPT_LOGS]:
            if not _is_used(old):
                old.unlink(missing_ok=True)
    except OSError:  # the home may be read-only or full
        return Path(tempfile.mkdtemp(prefix="raystill-")) / name
    return log


def _is_used(log: Path) -> bool:
    """True if a process has the number in its name: its command runs, or another process has got the number."""
    return psutil.pid_exists(int(number)) if (number := log.stem.rpartition("-")[2]).isdigit() else False
