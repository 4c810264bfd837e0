"""A command, timed, with its memory watched."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Mapping

import psutil


def watched(command: list[str], environment: Mapping[str, str]) -> tuple[float, float]:
    """(seconds, peak private memory of the process in MiB). Shared memory, in which Ray keeps objects, is not its own."""
    began, peak = time.monotonic(), 0.0
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log)
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, private_mib(watched))
            time.sleep(0.2)
        if process.wait():
            log.seek(0)
            raise SystemExit(log.read()[-3000:])
    return time.monotonic() - began, peak


def private_mib(process: psutil.Process) -> float:
    """Private memory of a process; 0 where it has ended."""
    try:
        memory = process.memory_info()
    except psutil.NoSuchProcess:
        return 0.0
    return float(memory.rss - memory.shared) / 2**20
