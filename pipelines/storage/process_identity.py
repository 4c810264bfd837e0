"""Identity of the process that wrote a file. Readers use it to check whether that process still runs.

    {"host": "node-7", "pid": 4711, "processes": "<boot> pid:[4026531836]", "process": 88123}

A pid alone is not enough: it names another process on another machine, in another container, or later on this machine.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict


class ProcessIdentity(TypedDict):
    """A process, as written to lock and progress files."""

    host: str
    pid: int
    processes: str
    """`process_table` of the process."""
    process: int | None
    """`process_start` of the process."""


def this_process() -> ProcessIdentity:
    """Identity of the calling process."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "processes": process_table(),
        "process": process_start(os.getpid()),
    }


def is_running(process: Mapping[str, object]) -> bool | None:
    """True if the process runs. None if it is not visible from here.

    Args:
        process: a ProcessIdentity, possibly with further keys.
    """
    if not process["processes"] or process["processes"] != process_table():
        return None
    return process_start(process["pid"]) == process["process"]


def process_start(pid: object) -> int | None:
    """Start time of a process of this machine in clock ticks since boot. None if no process with this pid runs."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The command's name stands in parentheses and may hold any character. The state is the first field after it,
    # the start time the twentieth (proc_pid_stat(5)).
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def process_table() -> str:
    """Boot id and pid namespace: processes with the same value see the same pids. Empty if the system reports neither."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
