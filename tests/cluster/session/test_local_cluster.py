"""`raystill up`: its nodes, whatever another cluster's variables are in the shell. A real one: integration/test_jobs.py."""

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest.mock import Mock

import pytest

from cluster.session import local_cluster
from pipelines.errors import StageFailedError

DEAD = "127.0.0.1:9"


@pytest.fixture(autouse=True)
def _shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One that has exported what an earlier `raystill up` printed."""
    monkeypatch.setenv("RAY_ADDRESS", DEAD)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", f"http://{DEAD}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAYSTILL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Logs of nodes that end before they join, one for each start. With none left, a node joins."""
    left: list[str] = []
    alive: list[str] = []

    def start(arguments: Sequence[str], log: Path, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
        if left:
            log.write_text(left.pop(0))
            process = subprocess.Popen(["true"])
            # Its entry in the process table must stay for create_time().
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            return process
        alive.append("node")
        return subprocess.Popen(["sleep", "60"])

    monkeypatch.setattr(local_cluster, "start_node", start)
    monkeypatch.setattr(local_cluster, "alive_nodes", lambda dashboard: alive)
    return left


def test_a_node_that_does_not_start_names_the_cause(logs: list[str]) -> None:
    logs[:] = ["Traceback (most recent call last):\nException: why\n\n"]
    match = r"node 1 of the cluster does not start \(Exception: why\)\. Its log is (\S+)\. If"
    with pytest.raises(StageFailedError, match=match) as error:
        local_cluster.up(1, 1)
    [log] = re.findall(match, str(error.value))
    assert "Exception: why" in Path(log).read_text()
    assert not local_cluster.down(), "the cluster was left recorded"


def test_a_node_that_ray_gave_up_is_started_again(logs: list[str]) -> None:
    logs[:] = ["Exception: The current node timed out during startup."]
    assert len(local_cluster.up(1, 1).nodes) == 1
    assert local_cluster.down()


class StartedError(Exception):
    """A process would have been started."""


def test_nodes_use_their_own_dashboard_and_require_a_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setattr(subprocess, "Popen", popen := Mock(side_effect=StartedError))
    with pytest.raises(StartedError):
        local_cluster.up(1, 1)
    command, variables = popen.call_args.args[0], popen.call_args.kwargs["env"]
    port = next(option for option in command if option.startswith("--dashboard-port=")).partition("=")[2]
    assert variables["RAY_API_SERVER_ADDRESS"] == f"http://127.0.0.1:{port}"
    assert "RAY_ADDRESS" not in variables
    assert variables["RAY_AUTH_MODE"] == "token"
    assert len((tmp_path / ".ray" / "auth_token").read_text()) == 64
