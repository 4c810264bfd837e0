"""Duration and peak memory of a command."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Mapping

import psutil


def watched(command: list[str], environment: Mapping[str, str]) -> tuple[float, float]:
    """Run a command. Returns (seconds, peak private memory in MiB), without the shared memory of Ray's object store."""
    begin, peak = time.monotonic(), 0.0
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log)
        target = psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, private_mib(target))
            time.sleep(0.2)
        if process.wait():
            log.seek(0)
            raise SystemExit(log.read()[-3000:])
    return time.monotonic() - begin, peak


def private_mib(process: psutil.Process) -> float:
    """Private memory of a process. 0 after its end."""
    try:
        memory = process.memory_info()
    except psutil.NoSuchProcess:
        return 0.0
    return float(memory.rss - memory.shared) / 2**20
