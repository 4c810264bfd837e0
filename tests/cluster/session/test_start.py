"""Connect to a cluster or start Ray: which errors a user sees."""

import socket
from unittest.mock import Mock

import pytest
import ray

from cluster.session import start
from cluster.session.connection import UnreachableError
from pipelines.errors import RaystillError, UserError


def test_a_head_that_does_not_listen_is_given_up_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.session.connection._CONNECT_S", 0.5)
    for address in ("127.0.0.1:9", "no-such-host.invalid:1"):
        with pytest.raises(UnreachableError, match=rf"cluster {address}: no Ray answers there\. Set RAY_ADDRESS"):
            start._start(address, False)
    with pytest.raises(UserError, match="RAY_ADDRESS http://head:8265: it must be the address of a head, not a URL"):
        start._start("http://head:8265", False)
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setattr(ray, "init", lambda **_: None)
    with socket.create_server(("127.0.0.1", 0)) as head:
        for address in (f"127.0.0.1:{head.getsockname()[1]}", "auto", "ray://head:10001"):
            start._start(address, False)


@pytest.mark.parametrize(
    ("raised", "message"),
    [("The current node timed out during startup.", "did not start in time"), ("AF_UNIX path length", "a short path")],
)
def test_a_ray_that_does_not_start_is_one_message(monkeypatch: pytest.MonkeyPatch, raised: str, message: str) -> None:
    monkeypatch.setattr(ray, "init", Mock(side_effect=Exception(raised)))
    with pytest.raises(RaystillError, match=message):
        start._start(None, verbose=False)
