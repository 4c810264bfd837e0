"""Simulated hosts: network namespaces with their own addresses on a bridge without an uplink. Requires root.

    with Network(3) as network:                     # 198.18.0.1 (tests, storage, clients), .11, .12 and .13
        with network.hosts[0].entered():            # this thread's new sockets and processes belong to the host
            ...
        network.hosts[2].cut()                      # drops all packets without closing connections
        network.hosts[2].restore()

Threads keep the namespace in which they started. Callers end the processes that they start on a host.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Self

_NEEDED = ("unshare", "nsenter", "setpriv", "ip")
_NETWORK = "198.18.0"
"""Address range for tests (RFC 2544)."""
_CLONE_NEWNET = 0x40000000


def missing() -> str | None:
    """Reason why this machine cannot create the network. None if it can."""
    if os.geteuid() != 0:
        return "network namespaces require root"
    if absent := [name for name in _NEEDED if shutil.which(name) is None]:
        return f"{', '.join(absent)} not installed (Debian: util-linux, iproute2)"
    trial = "ip link add lan type bridge && ip link add eth0 type veth peer name port"
    done = subprocess.run(["unshare", "--net", "sh", "-c", trial], capture_output=True, text=True, check=False)
    return f"network namespaces cannot be created: {done.stderr.strip()}" if done.returncode else None


@dataclass(frozen=True)
class Host:
    """A host. `process` keeps its namespace alive."""

    address: str
    process: subprocess.Popen[str]
    lan: Host | None = None
    """Host of the bridge. None: this host is the bridge."""

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Move this thread to the host while the block runs."""
        with open("/proc/thread-self/ns/net") as ours, open(f"/proc/{self.process.pid}/ns/net") as theirs:
            _move(theirs)
            try:
                yield
            finally:
                _move(ours)

    def cut(self) -> None:
        """Disconnect the host from the bridge. Connections stay open on both sides and receive nothing."""
        self._set("down")

    def restore(self) -> None:
        self._set("up")

    def _set(self, state: str) -> None:
        assert self.lan, "the bridge has no cable"
        number = self.address.rpartition(".")[2]
        there = ["nsenter", f"--net=/proc/{self.lan.process.pid}/ns/net"]
        subprocess.run([*there, "ip", "link", "set", f"port{number}", state], check=True)


class Network:
    """A bridge with hosts. The end of the block removes all."""

    def __init__(self, hosts: int) -> None:
        self._count = hosts
        self._processes: list[subprocess.Popen[str]] = []
        self.lan: Host
        """Host of tests, storage and clients."""
        self.hosts: list[Host] = []

    def __enter__(self) -> Self:
        try:
            # Without an address of its own a bridge takes the lowest one of its ports. If that changes, hosts lose it for a minute.
            self.lan = Host(f"{_NETWORK}.1", self._namespace(
                "ip link set lo up", "ip link add lan address 02:00:00:00:00:01 type bridge",
                f"ip address add {_NETWORK}.1/24 dev lan", "ip link set lan up",
            ))  # fmt: skip
            for number in range(11, 11 + self._count):
                self.hosts.append(Host(f"{_NETWORK}.{number}", self._host(number), self.lan))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            process.kill()
            process.wait()
            assert process.stdout
            process.stdout.close()

    def _host(self, number: int) -> subprocess.Popen[str]:
        lan = self.lan.process.pid
        return self._namespace(
            "ip link set lo up",
            f"ip link add eth0 type veth peer name port{number} netns {lan}",
            f"nsenter --net=/proc/{lan}/ns/net ip link set port{number} master lan up",
            f"ip address add {_NETWORK}.{number}/24 dev eth0",
            "ip link set eth0 up",
        )

    def _namespace(self, *lines: str) -> subprocess.Popen[str]:
        script = " && ".join([*lines, "echo up", "exec sleep infinity"])
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sh", "-c", script]  # dies with us
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._processes.append(process)
        assert process.stdout
        assert process.stdout.readline() == "up\n", f"no network namespace: {lines}"
        return process


def _move(network: IO[str]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(network.fileno(), _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
