"""The network interface of a worker."""

from __future__ import annotations

import os
from types import SimpleNamespace

import psutil
import pytest

from pipelines.train.engine.network_interfaces import interface_of, use_node_interface

INTERFACES = {"lo": ["127.0.0.1", "::1"], "eth0": ["192.0.2.7", "fe80::1%eth0"], "ib0": ["198.51.100.7"]}


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    interfaces = {name: [SimpleNamespace(address=a) for a in found] for name, found in INTERFACES.items()}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: interfaces)


@pytest.mark.parametrize(
    ("address", "name"),
    [("192.0.2.7", "eth0"), ("198.51.100.7", "ib0"), ("127.0.0.1", "lo"), ("fe80::1", "eth0"), ("192.0.2.8", None)],
)
def test_the_interface_with_an_address(address: str, name: str | None) -> None:
    assert interface_of(address) == name


@pytest.mark.parametrize(
    ("address", "given", "used"),
    [("192.0.2.7", None, "eth0"), ("192.0.2.7", "ib0", "ib0"), ("192.0.2.8", None, None)],
)
def test_gloo_uses_the_nodes_interface_unless_one_is_given(
    address: str, given: str | None, used: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: address)
    monkeypatch.setattr(os, "environ", {} if given is None else {"GLOO_SOCKET_IFNAME": given})
    use_node_interface()
    assert os.environ.get("GLOO_SOCKET_IFNAME") == used
