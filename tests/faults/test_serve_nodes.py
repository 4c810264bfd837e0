"""The endpoint on two nodes under load while one is drained and removed: no request fails."""

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipelines.config.base import ReplicasConfig
from pipelines.runtime.compat.ray import serve_controller
from tests.support.endpoints import Load, endpoint_of, running_replicas, small, wait_until
from tests.support.nodes import ray_nodes
from tests.support.tiny_students import TEXTS, write_student

pytestmark = [pytest.mark.integration, pytest.mark.full, pytest.mark.timeout(600)]


NOTICE_S = 300
"""Must exceed serving.request_timeout_s. Otherwise Serve stops a replica before its successor runs, and requests wait."""


def replicas() -> dict[str, list[dict[str, Any]]]:
    controller = serve_controller()
    assert controller
    return running_replicas(controller.get_serve_details())


def test_draining_a_node_fails_no_request(tmp_path: Path) -> None:
    import ray

    folder = write_student(tmp_path / "student", "decoder-only")
    serving = small(replicas=ReplicasConfig(min=2, max=2))
    with ray_nodes(2) as cluster:
        ray.shutdown()  # of other tests
        ray.init(address=cluster.address, log_to_driver=False)
        try:
            with endpoint_of({"sums": folder}, serving) as client:
                (ingress,) = replicas()["raystill"]
                drained = ingress["node_id"]
                spread = Counter(r["node_id"] for r in replicas()["raystill-student-sums"])
                assert len(spread) == 2, "a replica on each node"
                with Load(str(client.base_url), {"model": "sums", "inputs": [TEXTS[0]]}, retry=True) as load:
                    load.answered(100)
                    drain(cluster.address, drained)
                    wait_until(lambda: not alive(drained), 120.0)  # a raylet ends once nothing runs on its drained node
                    assert [len(found) for found in replicas().values()] == [1, 2]
                    load.answered(200)
        finally:
            ray.shutdown()
    assert (load.failed, load.retried) == ([], 0)


def alive(node_id: str) -> bool:
    import ray

    return any(node["Alive"] for node in ray.nodes() if node["NodeID"] == node_id)


def drain(address: str, node_id: str) -> None:
    reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
    node = ["--address", address, "--node-id", node_id, "--deadline-remaining-seconds", str(NOTICE_S)]
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", *node, *reason]
    subprocess.run(command, check=True, capture_output=True)
