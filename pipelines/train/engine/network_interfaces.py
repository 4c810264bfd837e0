"""Which network the workers of a training talk over: that of the addresses by which Ray's nodes know each other.

Left to itself, torch's gloo takes the address that a machine's own name resolves to. On many that is a loopback (Debian writes
`127.0.1.1 NAME` into /etc/hosts), and workers of other machines are refused: "Gloo connectFullMesh failed ... Connection refused".
"""

from __future__ import annotations

import os
from typing import Any

_VARIABLE = "GLOO_SOCKET_IFNAME"


def interface_of(address: str) -> str | None:
    """The network interface of this machine that has the address; None where none has."""
    import psutil

    for name, entries in psutil.net_if_addrs().items():
        if any(entry.address.partition("%")[0] == address for entry in entries):
            return str(name)
    return None


def use_node_interface() -> None:
    """Let gloo use the interface of this process' node, unless the environment names one."""
    import ray

    name = interface_of(ray.util.get_node_ip_address())
    if name is not None:
        os.environ.setdefault(_VARIABLE, name)


def torch_config() -> Any:
    """Ray Train's settings for torch, with the interface chosen on every worker before they connect."""
    from ray.train.torch import TorchConfig

    class OnNodeInterfaces(TorchConfig):  # type: ignore[misc]
        @property
        def backend_cls(self) -> Any:
            return _after(use_node_interface, super().backend_cls)

    return OnNodeInterfaces()


def _after(first: Any, backend: Any) -> Any:
    """The backend, which calls a function on every worker before anything else."""

    class After(backend):  # type: ignore[misc]
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            worker_group.execute(first)
            super().on_start(worker_group, backend_config)

    return After
