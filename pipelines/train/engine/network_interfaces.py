"""The network interface that workers communicate over: the one with the address of their Ray node.

By default torch's gloo takes the address that the machine's own name resolves to. On many machines that is a loopback (Debian writes
`127.0.1.1 NAME` into /etc/hosts), and other machines cannot reach it: "Gloo connectFullMesh failed ... Connection refused".
"""

from __future__ import annotations

import os

_VARIABLE = "GLOO_SOCKET_IFNAME"


def interface_of(address: str) -> str | None:
    """The network interface of this machine that has the address; None if none has it."""
    import psutil

    for name, entries in psutil.net_if_addrs().items():
        if any(entry.address.partition("%")[0] == address for entry in entries):
            return str(name)
    return None


def use_node_interface() -> None:
    """Make gloo use the interface of this process' Ray node, unless the environment names one."""
    import ray

    name = interface_of(ray.util.get_node_ip_address())
    if name is not None:
        os.environ.setdefault(_VARIABLE, name)
