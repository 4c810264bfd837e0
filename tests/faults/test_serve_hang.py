"""An engine that hangs without dying: SIGSTOP on vLLM's core."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from tests.faults.test_serve import BODY, processes
from tests.support.endpoints import endpoint_of, small, wait_until
from tests.support.local_ray import local_ray
from tests.support.tiny_students import write_student

pytestmark = [pytest.mark.full, pytest.mark.serve, pytest.mark.timeout(600)]


def test_a_stopped_vllm_is_detected_and_replaced(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Requests to the hanging engine get 504 after `request_timeout_s`. Its processes end and a successor answers."""
    pytest.importorskip("vllm")
    folder = write_student(tmp_path / "student", "decoder-only", width=256)
    settings = small(engine="vllm", request_timeout_s=20.0)
    with local_ray(), endpoint_of({"sums": folder}, settings) as client:
        wait_until(lambda: _status(client) == 200, 120.0)
        core = processes("VLLM::EngineCore")[0]
        replica = processes("ServeReplica:raystill-student-sums")[0]
        core.send_signal(signal.SIGSTOP)
        assert _status(client) == 504
        assert core.status() == psutil.STATUS_STOPPED
        wait_until(lambda: not replica.is_running() and not core.is_running(), 300.0, of=lambda: "the replica's end")
        statuses: list[int] = []

        def answered() -> bool:
            statuses.append(_status(client))
            return statuses[-1] == 200

        wait_until(answered, 120.0, of=lambda: f"an answer ({statuses})")
        record_property("statuses until the successor answers", statuses)


def _status(client: httpx.Client) -> int:
    return client.post("/v1/predict", json=BODY, timeout=60.0).status_code
