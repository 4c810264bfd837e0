"""A Ray with autoscaling: autoscaler v2 with Ray's fake provider, which starts a local raylet per node.

ray.cluster_utils.AutoscalingCluster first stops every Ray on the machine (`ray stop --force`), and Ray's wheel lacks its example
configuration.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.support.commands import environment

OBJECT_STORE_BYTES = 80 << 20
IDLE_S = 9.0
_HEAD_GROUP = "ray.head.default"


@dataclass(frozen=True)
class Group:
    """A node type with 0 to `most` nodes."""

    resources: Mapping[str, int]
    most: int


@dataclass(frozen=True)
class Autoscaled:
    """A running cluster. `environment` is for commands that use it."""

    address: str
    environment: dict[str, str]

    def nodes(self) -> Counter[str]:
        """Live nodes by group, without the head."""
        from ray._raylet import GcsClient
        from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply, NodeStatus

        status = GetClusterStatusReply.FromString(GcsClient(address=self.address).get_cluster_status(timeout_s=10))
        states = status.cluster_resource_state.node_states
        alive = [state for state in states if state.status != NodeStatus.DEAD]
        return Counter(state.ray_node_type_name for state in alive if state.ray_node_type_name != _HEAD_GROUP)


@contextmanager
def autoscaled(folder: Path, groups: Mapping[str, Group], head_cpus: int = 0) -> Iterator[Autoscaled]:
    """A head and nodes of these groups on demand. Nodes end after 9 s without work."""
    from ray._private.services import get_node_ip_address
    from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    address = f"{get_node_ip_address()}:{port}"
    own = environment() | {"RAY_AUTH_MODE": "disabled"}
    settings = folder / "autoscaler.json"
    settings.write_text(json.dumps(_settings(address, groups, head_cpus, FAKE_HEAD_NODE_ID)))
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}", f"--num-cpus={head_cpus}",
        f"--autoscaling-config={settings}", f"--temp-dir={own['RAY_TMPDIR']}", f"--object-store-memory={OBJECT_STORE_BYTES}",
        "--include-dashboard=false", "--disable-usage-stats", "--min-worker-port=0", "--max-worker-port=0",
    ]  # fmt: skip
    fake = {
        "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        "RAY_NODE_TYPE_NAME": _HEAD_GROUP, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "1",
    }  # fmt: skip
    log = folder / "head.log"
    with log.open("wb") as output:
        head = subprocess.Popen(command, stdout=output, stderr=output, env=own | fake, start_new_session=True)
    try:
        _wait_for(address, head, log)
        yield Autoscaled(address, own | {"RAY_ADDRESS": address})
    finally:
        _end(psutil.Process(head.pid))
        head.wait()


def _settings(address: str, groups: Mapping[str, Group], head_cpus: int, head: str) -> dict[str, Any]:
    """Configuration of the autoscaler. Defaults of a real provider are empty."""
    nodes = {
        name: {
            "resources": {**group.resources, "object_store_memory": OBJECT_STORE_BYTES},
            "node_config": {},
            "min_workers": 0,
            "max_workers": group.most,
        }
        for name, group in groups.items()
    }
    provider = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
    commands = ("setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray", "initialization")
    return {
        "cluster_name": "fake",
        "max_workers": sum(group.most for group in groups.values()),
        "idle_timeout_minutes": IDLE_S / 60,
        "upscaling_speed": 1.0,
        "provider": {
            "type": "external",
            "module": provider,
            "gcs_address": address,
            "head_node_id": head,
            "launch_multiple": True,
        },
        "head_node_type": _HEAD_GROUP,
        "available_node_types": {
            **nodes,
            _HEAD_GROUP: {"resources": {"CPU": head_cpus}, "node_config": {}, "max_workers": 0},
        },
        **{f"{name}_commands": [] for name in commands},
        **{name: {} for name in ("docker", "auth", "file_mounts")},
        **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
        "file_mounts_sync_continuously": False,
    }


def _wait_for(address: str, head: subprocess.Popen[bytes], log: Path) -> None:
    from ray._raylet import GcsClient
    from ray.exceptions import RpcError

    deadline = time.monotonic() + 60.0
    while time.monotonic() < deadline:
        assert head.poll() is None, log.read_text()
        try:
            if GcsClient(address=address).get_all_node_info(timeout=1):
                return
        except RpcError:  # not listening yet
            time.sleep(0.3)
    raise AssertionError(f"the head did not start:\n{log.read_text()}")


def _end(head: psutil.Process) -> None:
    """End the head and its fake nodes. The nodes are children of its autoscaler, which leaves them running."""
    if not head.is_running():
        return
    family = [head, *head.children(recursive=True)]
    head.terminate()
    psutil.wait_procs([head], timeout=15)
    _, left = psutil.wait_procs(family, timeout=1)
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=5)
