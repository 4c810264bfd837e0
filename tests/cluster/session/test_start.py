"""Connect to a cluster or start Ray: which errors a user sees."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from cluster.session import start
from cluster.session.connection import UnreachableError
from pipelines.errors import UserError
from tests.support.commands import raystill
from tests.support.corpora import write_jsonl

MISMATCH = RuntimeError(
    "Version mismatch: The cluster was started with:\n    Ray: 2.59.0\n    Python: 3.11.7\n"
    "This process on node 10.0.0.1 was started with:\n    Ray: 2.60.0\n    Python: 3.12.1\n"
)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("Failed to connect to Ray cluster at head:6379"), "no Ray answers there. Set RAY_ADDRESS"),
        (ray.exceptions.RpcError("UNAVAILABLE"), "no Ray answers there. Set RAY_ADDRESS"),
        (ray.exceptions.AuthenticationError("InvalidAuthToken"), "it needs a token.* Set RAY_AUTH_MODE=token"),
        (MISMATCH, "it runs Ray 2.59.0 with Python 3.11.7, and this is Raystill on Ray 2.60.0 with Python 3.12.1"),
        (RuntimeError("something\nelse"), "it answers else"),
    ],
)
def test_a_failed_connection_is_one_error(error: Exception, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: Any) -> None:
        raise error

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(start, "wait_for_head", lambda address: None)
    with pytest.raises(UserError, match=f"cluster head:6379: {message}"):
        start._start("head:6379", False)


def test_a_head_that_does_not_listen_is_given_up_in_seconds(monkeypatch: pytest.MonkeyPatch, dashboard: str) -> None:
    monkeypatch.setattr("cluster.session.connection._CONNECT_S", 0.5)
    for address in ("127.0.0.1:9", "no-such-host.invalid:1"):
        with pytest.raises(UnreachableError, match=rf"cluster {address}: no Ray answers there\. Set RAY_ADDRESS"):
            start._start(address, False)
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "127.0.0.1")  # the stand-in listens there
    monkeypatch.setattr(ray, "init", lambda **_: None)
    for address in (dashboard, "auto", "ray://head:10001"):
        start._start(address, False)


def test_a_dashboards_url_is_no_address_of_a_head() -> None:
    with pytest.raises(UserError, match="RAY_ADDRESS http://head:8265: it must be the address of a head, not a URL"):
        start._start("http://head:8265", False)


@pytest.mark.integration
def test_a_gpu_that_ray_does_not_have_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA_VISIBLE_DEVICES hides GPUs from Ray and not from nvidia-smi. Ray would wait for one forever."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: Some Model (UUID: GPU-0)'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    rows = [{"id": "1", "input": "Anne has 4 apples and gives away 1. How many has she left?", "label": "4 - 1"}]
    run = {
        "name": "hidden",
        "output": str(tmp_path / "out"),
        "task": "arithmetic",
        "corpus": {"train": write_jsonl(tmp_path / "train.jsonl", rows)},
        "teacher": {"engine": "echo", "gpus_per_replica": 1},
        "student": {"model": "none"},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    result = raystill("label", str(tmp_path / "run.yaml"))
    assert result.returncode == 2, result.stderr[-2000:]
    assert "the run needs 1 GPU, 0 are available" in result.stderr
    assert not (tmp_path / "out").exists()
