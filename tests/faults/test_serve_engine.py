"""An engine that dies without its replica: vLLM's core is killed, as by a kernel that is out of memory."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from pipelines.config_base import ReplicasConfig
from tests.faults.test_serve import BODY, processes
from tests.integration.endpoints import Counted, Load, endpoint_of, small, wait_until
from tests.integration.local_ray import local_ray
from tests.serving.tiny import write_student

pytestmark = [pytest.mark.full, pytest.mark.serve, pytest.mark.vllm, pytest.mark.timeout(600)]


def test_a_killed_vllm_takes_its_replica_along_and_nobody_sees_it(tmp_path: Path, counted: Counted) -> None:
    pytest.importorskip("vllm")
    folder = write_student(tmp_path / "student", "decoder-only", width=256)
    settings = small(engine="vllm", replicas=ReplicasConfig(min=2, max=2))
    with local_ray(), endpoint_of({"sums": folder}, settings) as client:
        with Load(str(client.base_url), BODY, retry=True) as load:
            load.answered(50)
            replicas = {p.pid for p in processes("ServeReplica:raystill-student-sums")}
            core = processes("VLLM::EngineCore")[0]
            core.send_signal(signal.SIGKILL)

            def replaced() -> bool:
                now = {p.pid for p in processes("ServeReplica:raystill-student-sums")}
                return len(replicas - now) == 1 and len(now) == 2 and len(processes("VLLM::EngineCore")) == 2

            wait_until(replaced, 120.0, of=lambda: "the successor")
            load.answered(50)
        counted(load)
        assert load.failed == []
        assert load.retried == 0
