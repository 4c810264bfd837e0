import os
from types import SimpleNamespace

import psutil
import pytest

from pipelines.train.engine.network_interfaces import use_node_interface

INTERFACES = {"lo": ["127.0.0.1", "::1"], "eth0": ["192.0.2.7", "fe80::1%eth0"], "ib0": ["198.51.100.7"]}


@pytest.mark.parametrize(
    ("address", "given", "used"),
    [
        ("192.0.2.7", None, "eth0"), ("198.51.100.7", None, "ib0"), ("127.0.0.1", None, "lo"), ("fe80::1", None, "eth0"),
        ("192.0.2.8", None, None), ("192.0.2.7", "ib0", "ib0"),
    ],
)  # fmt: skip
def test_gloo_uses_the_nodes_interface_unless_one_is_given(
    address: str, given: str | None, used: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    interfaces = {name: [SimpleNamespace(address=a) for a in found] for name, found in INTERFACES.items()}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: interfaces)
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: address)
    monkeypatch.setattr(os, "environ", {} if given is None else {"GLOO_SOCKET_IFNAME": given})
    use_node_interface()
    assert os.environ.get("GLOO_SOCKET_IFNAME") == used
