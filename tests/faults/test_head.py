"""The head of a cluster is lost and restarted while the endpoint answers. Its state is in the Redis of component gcs-ft-redis."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.chain import Note, with_student
from tests.support.endpoints import Load, wait_until
from tests.support.k8s.rendering import K8S
from tests.support.machines import SOON_DEAD, Machines
from tests.support.network import Network, missing
from tests.support.object_store import running_server

ABSENT = missing() or (None if shutil.which("redis-server") else "redis-server is not installed (Debian: redis-server)")
pytestmark = [
    pytest.mark.integration, pytest.mark.full, pytest.mark.timeout(600),
    pytest.mark.skipif(ABSENT is not None, reason=str(ABSENT)),
]  # fmt: skip
BODY = {"model": "sums", "inputs": ["Anne has 4 pens ."]}
PASSWORD = "a-password-of-this-test"
AWAY_S = 5.0


@contextmanager
def redis(folder: Path, address: str) -> Iterator[str]:
    """ADDRESS:PORT of a Redis on this thread's network, started by the component's command with local folders as volumes."""
    objects = yaml.safe_load_all((K8S / "components" / "gcs-ft-redis" / "redis.yaml").read_text(encoding="utf-8"))
    (stateful,) = (found for found in objects if found["kind"] == "StatefulSet")
    (container,) = stateful["spec"]["template"]["spec"]["containers"]
    (script,) = container["args"]
    for mount in container["volumeMounts"]:
        own = folder / mount["name"]
        own.mkdir()
        script = script.replace(mount["mountPath"], str(own))
    # Every process could read a password among the arguments.
    assert script.splitlines()[-1] == f"exec redis-server {folder}/config/redis.conf"
    log = folder / "redis.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*container["command"], script], stdout=output, stderr=output, env=os.environ | {"REDIS_PASSWORD": PASSWORD}
        )
    try:
        wait_until(lambda: "Ready to accept connections" in log.read_text(), every_s=0.1)
        yield f"{address}:{container['ports'][0]['containerPort']}"
        assert (folder / "redis" / "appendonlydir").is_dir(), "Redis must persist to its volume"
    finally:
        process.kill()
        process.wait()


def test_endpoint_answers_while_the_head_is_down(tmp_path: Path, note: Note) -> None:
    """Clients reach the proxies of the workers, as through a Kubernetes Service."""
    with Network(3) as network, network.lan.entered():
        lan = network.lan.address
        with running_server(tmp_path, lan) as storage, redis(tmp_path, lan) as store:
            head = {**SOON_DEAD, "RAY_REDIS_ADDRESS": store, "RAY_external_storage_namespace": "chain"}
            chain = with_student(tmp_path, storage)
            with Machines(
                tmp_path, network.hosts, storage.environment, head_cpus=0, head=head, redis_password=PASSWORD
            ) as cluster:
                serve = ("serve", f"sums={chain.student}", "--run", str(chain.file))
                config = cluster.raystill(*serve, "--print-config", "--json")
                assert config.returncode == 0, config.stderr[-3000:]
                cluster.deploy(json.loads(config.stdout))
                cluster.until(lambda: running(cluster) == [2, 2], "replicas on two machines", 120)
                before = replica_ids(cluster)
                workers = [f"http://{host.address}:8000" for host in network.hosts[1:]]
                with (
                    Load(workers[0], BODY, clients=2, retry=True) as one,
                    Load(workers[1], BODY, clients=2, retry=True) as two,
                ):
                    loads = (one, two)
                    for load in loads:
                        load.answered(100)
                    cluster.machines[0].kill()
                    began, answered = time.monotonic(), [len(load.responses) for load in loads]
                    time.sleep(AWAY_S)
                    while_down = [len(load.responses) - count for load, count in zip(loads, answered, strict=True)]
                    cluster.start(0)
                    whole = lambda: len(cluster.alive()) == 3 and running(cluster) == [2, 2]  # noqa: E731
                    cluster.until(whole, "the cluster as it was")
                    back_s = time.monotonic() - began
                    for load in loads:
                        load.answered(100)
                    time.sleep(AWAY_S)
                note(
                    answered=sum(len(load.responses) for load in loads), answered_while_down=while_down,
                    failed=sum(len(load.failed) for load in loads), sent_again=sum(load.retried for load in loads),
                    head_down_s=round(back_s, 1), longest_s=max(r.elapsed.total_seconds() for load in loads for r in load.responses),
                    same_replicas=replica_ids(cluster) == before,
                )  # fmt: skip
                assert all(load.failed == [] and load.retried == 0 for load in loads)
                assert all(while_down)
                assert replica_ids(cluster) == before, "a replica was restarted"


def running(cluster: Machines) -> list[int]:
    return sorted(len(addresses) for addresses in cluster.replicas().values())


def replica_ids(cluster: Machines) -> set[Any]:
    applications = cluster.ask("/api/serve/applications/")["applications"]
    deployments = [deployment for found in applications.values() for deployment in found["deployments"].values()]
    return {replica["actor_id"] for deployment in deployments for replica in deployment["replicas"]}
