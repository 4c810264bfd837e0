"""Stages on an autoscaled cluster: nodes start for pending work and end when idle."""

import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pyarrow.parquet as pq
import pytest

from tests.support.commands import environment, raystill, running
from tests.support.endpoints import free_port, wait_until
from tests.support.run_files import label_run, word_rows, write_run_file
from tests.support.tiny_runs import label_rows, make_model, make_run, write_labels
from tests.support.tiny_students import TEXTS, write_student

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

    port = free_port()
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
            "resources": {**group.resources, "object_store_memory": OBJECT_STORE_BYTES}, "node_config": {}, "min_workers": 0,
            "max_workers": group.most,
        }
        for name, group in groups.items()
    }  # fmt: skip
    head_type = {"resources": {"CPU": head_cpus}, "node_config": {}, "max_workers": 0}
    provider = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
    commands = ("setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray", "initialization")
    return {
        "cluster_name": "fake", "max_workers": sum(group.most for group in groups.values()), "idle_timeout_minutes": IDLE_S / 60,
        "upscaling_speed": 1.0, "head_node_type": _HEAD_GROUP, "available_node_types": {**nodes, _HEAD_GROUP: head_type},
        "provider": {"type": "external", "module": provider, "gcs_address": address, "head_node_id": head, "launch_multiple": True},
        **{f"{name}_commands": [] for name in commands}, **{name: {} for name in ("docker", "auth", "file_mounts")},
        **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")}, "file_mounts_sync_continuously": False,
    }  # fmt: skip


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


pytestmark = [pytest.mark.integration, pytest.mark.full, pytest.mark.timeout(600)]
ROWS = 300


def label(cluster: Autoscaled, folder: Path, **teacher: Any) -> subprocess.CompletedProcess[str]:
    """`raystill label` with the echo teacher; each replica requests a GPU."""
    run = label_run(folder, word_rows(ROWS), {"latency_s": 0.01, "gpus_per_replica": 1, **teacher})
    return raystill("label", str(write_run_file(folder, run)), env=cluster.environment)


def test_a_gpu_node_starts_from_zero_and_ends_when_idle(tmp_path: Path) -> None:
    """To Ray, GPUs are numbers; no CUDA is used."""
    with autoscaled(tmp_path, {"gpu": Group({"CPU": 4, "GPU": 1}, most=2)}) as cluster:
        assert not cluster.nodes()
        done = label(cluster, tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
        assert "nodes: waiting for 1 GPU, 1 CPU of 1 x (1 GPU, 1 CPU)" in done.stderr
        assert "nodes: 1 x (1 GPU, 1 CPU) are ready" in done.stderr
        assert cluster.nodes()["gpu"] >= 1
        wait_until(lambda: not cluster.nodes(), IDLE_S + 30.0, of=cluster.nodes)
    found = Counter(pq.read_table(tmp_path / "out/labels/data")["id"].to_pylist())
    assert (len(found), set(found.values())) == (ROWS, {1})


def test_impossible_requests_are_refused_and_held_ones_awaited(tmp_path: Path) -> None:
    """Another driver on the cluster holds CPUs, then all GPUs."""
    with autoscaled(tmp_path, {"gpu": Group({"CPU": 4, "GPU": 1}, most=1)}, head_cpus=4) as cluster:
        with holding(cluster, num_cpus=1):
            done = label(cluster, tmp_path, replicas={"min": 3, "max": 3})
            assert done.returncode == 2, done.stderr[-3000:]
            rule = (
                r"the run needs 3 x \(1 GPU, 1 CPU\).* cannot launch nodes for the missing 3 GPUs, 3 CPUs.* maxReplicas"
            )
            assert re.search(rule, done.stderr), done.stderr
            assert not (tmp_path / "out").exists()
            assert not cluster.nodes()
        with holding(cluster, num_gpus=1) as holder:
            log, one = tmp_path / "log", ("--set", "teacher.replicas={min: 1, max: 1}")
            with running("label", str(tmp_path / "run.yaml"), *one, log=log, env=cluster.environment) as waiting:
                message = "label: waiting for other work to release 1 GPU"
                wait_until(lambda: message in log.read_text() or waiting.poll() is not None, 90.0)
                assert message in log.read_text()
                holder.kill()
                assert waiting.wait(timeout=120.0) == 0, log.read_text()[-3000:]


@contextmanager
def holding(cluster: Autoscaled, **resources: int) -> Iterator[subprocess.Popen[str]]:
    """A process that holds these resources until it ends."""
    code = f"""
import ray, time
ray.init(log_to_driver=False)
group = ray.remote(**{resources!r})(type("Holder", (), {{"there": lambda self: True}})).remote()
print(ray.get(group.there.remote()), flush=True)
time.sleep(600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env=cluster.environment, text=True
    ) as process:
        assert process.stdout
        try:
            assert process.stdout.readline().strip() == "True"
            yield process
        finally:
            process.kill()


def test_nodes_come_for_training_workers(tmp_path: Path) -> None:
    write_labels(tmp_path, label_rows(40))
    run = make_run(tmp_path, make_model("decoder-only", tmp_path / "model"), training={"workers": 2, "epochs": 1})
    with autoscaled(tmp_path, {"workers": Group({"CPU": 1}, most=2)}) as cluster:
        done = raystill("train", str(write_run_file(tmp_path, run)), env=cluster.environment)
        assert done.returncode == 0, done.stderr[-3000:]
        assert "nodes: waiting for 2 CPUs of 2 x (1 CPU)" in done.stderr
        assert "nodes: 2 x (1 CPU) are ready" in done.stderr, "a node has one CPU"
        wait_until(lambda: not cluster.nodes(), IDLE_S + 30.0, of=cluster.nodes)
    manifest = json.loads((tmp_path / "student" / "manifest.json").read_text())
    assert manifest["details"]["training"]["world_size"] == 2


def test_nodes_come_for_replicas_and_go_with_the_endpoint(tmp_path: Path) -> None:
    folder, port = write_student(tmp_path / "student", "decoder-only"), free_port()
    settings = {"replicas.min": 2, "replicas.max": 2, "max_replicas_per_node": 1, "port": port}
    options = [part for key, value in settings.items() for part in ("--set", f"serving.{key}={value}")]
    with autoscaled(tmp_path, {"replicas": Group({"CPU": 2}, most=2)}) as cluster:
        log = tmp_path / "serve.log"
        with running("serve", f"sums={folder}", *options, log=log, env=cluster.environment) as serving:
            wait_until(lambda: "sums at http" in log.read_text() or serving.poll() is not None, 400.0)
            assert "nodes: waiting for 2 CPUs of 2 x (1 CPU)" in log.read_text()
            assert cluster.nodes() == {"replicas": 2}
            body = {"model": "sums", "inputs": [TEXTS[0]]}
            answer = httpx.post(f"http://127.0.0.1:{port}/v1/predict", json=body, timeout=60.0)
            assert answer.status_code == 200, f"{answer.text}\n{log.read_text()}"
            serving.send_signal(signal.SIGTERM)
            serving.wait(timeout=60.0)
        wait_until(lambda: not cluster.nodes(), IDLE_S + 60.0, of=cluster.nodes)
