"""Which cluster is asked, whatever the shell's variables say, and what is said of what connecting to one raises."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import ray

from cluster.environment import make_ray_token, no_api_server, only_given_address
from cluster.jobs.client import Jobs
from cluster.session import local_cluster, start
from cluster.session.connection import NoAnswerError, alive_nodes, dashboard_url
from pipelines.errors import StageFailedError, UserError

DEAD = "127.0.0.1:9"
NODE = {
    "node_id": "aa", "node_ip": "127.0.0.1", "is_head_node": True, "state": "ALIVE", "state_message": "", "node_name": "aa",
    "resources_total": {}, "labels": {},
}  # fmt: skip
NODES = {
    "result": True,
    "msg": "",
    "data": {"result": {"result": [NODE], "total": 1, "num_after_truncation": 1, "num_filtered": 1}},
}


@pytest.fixture(autouse=True)
def _shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has used another cluster, which is gone."""
    monkeypatch.setenv("RAY_ADDRESS", DEAD)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", f"http://{DEAD}")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")


@pytest.fixture
def head() -> Iterator[str]:
    """Address of a dashboard with no job and one node, which is this machine."""

    class Head(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told = {"/api/version": {"ray_version": ray.__version__}, "/api/jobs/": []}.get(self.path, NODES)
            text = json.dumps(told)
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Head) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("scheme", ["http://", ""])
def test_the_cluster_that_is_named_is_asked_whatever_the_shell_says(head: str, scheme: str) -> None:
    jobs = Jobs(f"{scheme}{head}")
    assert jobs.address == f"http://{head}"
    assert jobs.of() == []
    assert jobs._on_this_machine() is True
    assert [node.node_id for node in alive_nodes(jobs.address)] == ["aa"]
    assert (os.environ["RAY_ADDRESS"], os.environ["RAY_API_SERVER_ADDRESS"]) == (DEAD, f"http://{DEAD}")


def test_an_address_keeps_its_scheme() -> None:
    assert dashboard_url("https://head") == "https://head"
    assert dashboard_url("head:8265") == "http://head:8265"


def test_a_cluster_that_is_not_there_is_said_so_at_once() -> None:
    with pytest.raises(NoAnswerError, match=r"cluster http://127\.0\.0\.1:9: no Ray answers there"):
        Jobs(DEAD)
    with pytest.raises(NoAnswerError, match="no Ray answers there"):
        alive_nodes(f"http://{DEAD}")


def test_variables_are_what_they_were_after_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS")
    with only_given_address():
        assert "RAY_ADDRESS" not in os.environ
    assert os.environ["RAY_ADDRESS"] == DEAD
    with no_api_server():
        assert "RAY_API_SERVER_ADDRESS" in os.environ
    assert "RAY_API_SERVER_ADDRESS" not in os.environ


MISMATCH = RuntimeError(
    "Version mismatch: The cluster was started with:\n    Ray: 2.59.0\n    Python: 3.11.7\n"
    "This process on node 10.0.0.1 was started with:\n    Ray: 2.60.0\n    Python: 3.12.1\n"
)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionError("Failed to connect to Ray cluster at head:6379"), "no Ray answers there. Set RAY_ADDRESS"),
        (ray.exceptions.RpcError("UNAVAILABLE"), "no Ray answers there. Set RAY_ADDRESS"),
        (ray.exceptions.AuthenticationError("InvalidAuthToken"), "it asks for a token.* Set RAY_AUTH_MODE=token"),
        (MISMATCH, "it runs Ray 2.59.0 with Python 3.11.7, and this is Raystill on Ray 2.60.0 with Python 3.12.1"),
        (RuntimeError("something\nelse"), "it answers else"),
    ],
)
def test_what_connecting_to_a_cluster_raises_is_one_error(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**_: Any) -> None:
        raise error

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(start, "reach_head", lambda address: None)
    with pytest.raises(UserError, match=f"cluster head:6379: {said}"):
        start._start("head:6379", False)


def test_a_head_at_which_nothing_listens_is_given_up_after_seconds(monkeypatch: pytest.MonkeyPatch, head: str) -> None:
    """Ray tries for more than five minutes."""
    monkeypatch.setattr("cluster.session.connection._REACH_S", 0.5)
    with pytest.raises(NoAnswerError, match=r"cluster 127\.0\.0\.1:9: no Ray answers there\. Set RAY_ADDRESS"):
        start._start(DEAD, False)
    with pytest.raises(NoAnswerError, match=r"cluster no-such-host\.invalid:1: no Ray answers there"):
        start._start("no-such-host.invalid:1", False)
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "127.0.0.1")  # where the stand-in listens
    monkeypatch.setattr(ray, "init", lambda **_: None)
    for address in (head, "auto", "ray://head:10001"):
        start._start(address, False)


def test_the_url_of_a_dashboard_is_no_address_of_a_head() -> None:
    with pytest.raises(UserError, match="RAY_ADDRESS http://head:8265: it is the address of a head, and this is a URL"):
        start._start("http://head:8265", False)


def test_a_cluster_that_is_started_here_is_asked_and_not_the_shells(
    head: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`raystill down` and `up` in a shell that has exported what the first `up` printed."""
    state = {"dashboard": f"http://{head}", "folder": str(tmp_path)}
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        monkeypatch.setattr(local_cluster, "_START_S", 5.0)
        local_cluster._wait(state, sleeper, 1)
        monkeypatch.setattr(local_cluster, "_START_S", 0.5)
        (tmp_path / "node-1.log").write_text("why")
        with pytest.raises(StageFailedError, match="node 2 of the cluster does not start:\nwhy"):
            local_cluster._wait(state, sleeper, 2)
        (tmp_path / "node-0.log").write_text("why")
        with pytest.raises(StageFailedError, match="node 1 of the cluster does not start:\nwhy"):
            local_cluster._wait({**state, "dashboard": f"http://{DEAD}"}, sleeper, 1)
    finally:
        sleeper.kill()
        sleeper.wait()


class StartedError(Exception):
    """In place of a process."""


def test_nodes_that_are_started_here_ask_their_own_dashboard_and_for_a_token(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found: dict[str, Any] = {}

    def popen(command: list[str], *, env: dict[str, str], **_: Any) -> None:
        found.update(env=env, command=command)
        raise StartedError

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAYSTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.setattr(subprocess, "Popen", popen)
    with pytest.raises(StartedError):
        local_cluster.up(1, 1)
    dashboard = next(option for option in found["command"] if option.startswith("--dashboard-port="))
    assert found["env"]["RAY_API_SERVER_ADDRESS"] == f"http://127.0.0.1:{dashboard.partition('=')[2]}"
    assert "RAY_ADDRESS" not in found["env"]
    assert found["env"]["RAY_AUTH_MODE"] == "token"
    assert len((tmp_path / ".ray" / "auth_token").read_text()) == 64


def test_a_token_is_made_once_for_its_owner_only_and_only_where_one_is_wanted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / ".ray" / "auth_token"
    make_ray_token()
    assert not file.exists(), "the user said disabled"
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a-token-of-the-shell")
    make_ray_token()
    assert (os.environ["RAY_AUTH_MODE"], file.exists()) == ("token", False)
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    make_ray_token()
    made = file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    make_ray_token()
    assert file.read_text() == made
