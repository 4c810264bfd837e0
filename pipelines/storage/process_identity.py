"""Which process wrote something, so that another one can tell whether it is still there.

    {"host": "node-7", "pid": 4711, "processes": "<boot> pid:[4026531836]", "process": 88123}

A pid alone does not tell: on another machine or in another container it is another process, and later it may be one here too.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def this_process() -> dict[str, Any]:
    """What the module's docstring shows, of this process."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "processes": process_table(),
        "process": process_start(os.getpid()),
    }


def is_running(process: Mapping[str, Any]) -> bool | None:
    """Whether the process is there. None: it cannot be seen from here."""
    if not process["processes"] or process["processes"] != process_table():
        return None
    return bool(process_start(process["pid"]) == process["process"])


def process_start(pid: int) -> int | None:
    """When a process of this machine began, in clock ticks since it booted; None where there is none, or one that has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The command's name stands in brackets and may hold anything. After it: the state, and 19 fields on the start (proc_pid_stat(5)).
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def process_table() -> str:
    """Which pids this process sees: the boot of its machine and its namespace. Empty where the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
