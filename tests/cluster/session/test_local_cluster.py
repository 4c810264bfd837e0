"""`raystill up`: its nodes, whatever another cluster's variables are in the shell. A real one: integration/test_jobs.py."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from cluster.session import local_cluster
from cluster.session.local_cluster import LocalCluster
from pipelines.errors import StageFailedError

DEAD = "127.0.0.1:9"


@pytest.fixture(autouse=True)
def _shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One that has exported what an earlier `raystill up` printed."""
    monkeypatch.setenv("RAY_ADDRESS", DEAD)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", f"http://{DEAD}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAYSTILL_CACHE", str(tmp_path / "cache"))


def test_a_node_that_does_not_start_shows_its_log(tmp_path: Path) -> None:
    (tmp_path / "node-1.log").write_text("why")
    with subprocess.Popen(["true"]) as process:
        process.wait()
        with pytest.raises(StageFailedError, match="node 2 of the cluster does not start:\nwhy"):
            local_cluster._wait_for_nodes(LocalCluster("", f"http://{DEAD}", str(tmp_path)), process, 2)


class StartedError(Exception):
    """A process would have been started."""


def test_nodes_use_their_own_dashboard_and_require_a_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found: dict[str, Any] = {}

    def popen(command: list[str], *, env: dict[str, str], **_: Any) -> None:
        found.update(env=env, command=command)
        raise StartedError

    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setattr(subprocess, "Popen", popen)
    with pytest.raises(StartedError):
        local_cluster.up(1, 1)
    port = next(option for option in found["command"] if option.startswith("--dashboard-port=")).partition("=")[2]
    assert found["env"]["RAY_API_SERVER_ADDRESS"] == f"http://127.0.0.1:{port}"
    assert "RAY_ADDRESS" not in found["env"]
    assert found["env"]["RAY_AUTH_MODE"] == "token"
    assert len((tmp_path / ".ray" / "auth_token").read_text()) == 64
