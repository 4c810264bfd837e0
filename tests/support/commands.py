"""Runs the command in its own process and Ray, in a session that can be killed as a whole."""

import atexit
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-m", "cluster"]


def sockets_folder() -> str:
    """A folder with a path short enough for Ray's sockets. Removed when this process ends."""
    folder = tempfile.mkdtemp(prefix="rs-", dir="/tmp")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def environment() -> dict[str, str]:
    """The environment of a command: its own RAY_TMPDIR, no cluster, no hub."""
    cleared = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    return {**cleared, "RAY_TMPDIR": sockets_folder(), "HF_HUB_OFFLINE": "1", "COLUMNS": "160"}


def raystill(
    *arguments: str, command: Sequence[str] = COMMAND, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    env = env or environment()
    return subprocess.run([*command, *arguments], capture_output=True, text=True, env=env, cwd=cwd, check=False)


def succeed(*arguments: str, **options: Any) -> dict[str, Any]:
    """The JSON of a command, which must succeed. Options as of `raystill`."""
    done = raystill(*arguments, "--json", **options)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout))


@contextmanager
def running(
    *arguments: str, log: Path, command: Sequence[str] = COMMAND, env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Iterator[subprocess.Popen[bytes]]:  # fmt: skip
    """A running command. The rest of its session is killed after the block."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*command, *arguments], stdout=output, stderr=output, env=env or environment(), cwd=cwd, start_new_session=True
        )  # fmt: skip
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def url_of(serving: subprocess.Popen[bytes], log: Path, seconds: float = 240.0) -> str:
    """The address that a running `serve --json` prints into its log."""
    deadline = time.monotonic() + seconds
    while not (found := re.search(r'"url": "([^"]+)"', log.read_text(errors="replace"))):
        is_late = serving.poll() is not None or time.monotonic() > deadline
        assert not is_late, log.read_text(errors="replace")[-3000:]
        time.sleep(0.2)
    return found[1]
