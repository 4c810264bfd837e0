"""Runs the command in its own process and Ray, in a session that can be killed as a whole."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

COMMAND = [sys.executable, "-m", "cluster"]


def sockets_folder() -> str:
    """A folder with a path short enough for Ray's sockets. Removed when this process ends."""
    folder = tempfile.mkdtemp(prefix="rs-", dir="/tmp")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def environment() -> dict[str, str]:
    """The environment of a command: its own RAY_TMPDIR, no cluster, no hub."""
    cleared = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    return {
        **cleared,
        "RAY_TMPDIR": sockets_folder(),
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "160",
    }


def raystill(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, env=env or environment(), check=False)


@contextmanager
def running(*arguments: str, log: Path, command: Sequence[str] = COMMAND) -> Iterator[subprocess.Popen[bytes]]:
    """A running command. The rest of its session is killed after the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *arguments], stdout=output, stderr=output, env=environment(), start_new_session=True
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
