from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from pipelines.train.engine.network_interfaces import interface_of, use_node_interface

THERE = {"lo": ["127.0.0.1", "::1"], "eth0": ["192.0.2.7", "fe80::1%eth0"], "ib0": ["198.51.100.7"]}


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {name: [SimpleNamespace(address=a) for a in addresses] for name, addresses in THERE.items()}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: found)
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)


@pytest.mark.parametrize(
    ("address", "name"),
    [("192.0.2.7", "eth0"), ("198.51.100.7", "ib0"), ("127.0.0.1", "lo"), ("fe80::1", "eth0"), ("192.0.2.8", None)],
)
def test_the_interface_that_has_an_address(address: str, name: str | None) -> None:
    assert interface_of(address) == name


@pytest.mark.parametrize(
    ("address", "named", "used"),
    [("192.0.2.7", None, "eth0"), ("192.0.2.7", "ib0", "ib0"), ("192.0.2.8", None, None)],
)
def test_gloo_uses_the_node_s_unless_one_is_named(
    address: str, named: str | None, used: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: address)
    with pytest.MonkeyPatch.context() as patch:
        # Set and taken away again, so that what the function sets is taken away too.
        patch.setenv("GLOO_SOCKET_IFNAME", named or "-")
        if named is None:
            del os.environ["GLOO_SOCKET_IFNAME"]
        use_node_interface()
        found: Any = os.environ.get("GLOO_SOCKET_IFNAME")
    assert found == used
