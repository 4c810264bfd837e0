"""The overlay dev-cpu on real Ray without Kubernetes: pods as KubeRay creates them, in Linux namespaces.

Head and workers of the RayService start, pass the operator's probes and require the token. The test deploys and scales serveConfigV2 like
the operator, drains a worker under load like a deletion, and runs the entrypoint of a RayJob.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest
import yaml

from k8s.serve.render import rendered
from tests.support.dev_cpu import ARTIFACTS, OUTPUT, OVERLAY, ROWS, TOKEN, USER, cluster_of, dev_cpu, run_job
from tests.support.endpoints import wait_until
from tests.support.k8s.namespaces import Node, RunningPod, missing
from tests.support.k8s.rendering import needs_kustomize
from tests.support.pod_clusters import Cluster, Service, ServiceLoad
from tests.support.tiny_students import TEXTS, write_student

pytestmark = [
    pytest.mark.integration, pytest.mark.full, pytest.mark.timeout(600), needs_kustomize,
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]  # fmt: skip
BODY = {"model": "word-problems", "inputs": [TEXTS[0]]}
Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dev-cpu")


@pytest.fixture(scope="module")
def node(folder: Path) -> Iterator[Node]:
    with dev_cpu(folder) as started:
        yield started


@pytest.fixture(scope="module")
def endpoint(node: Node) -> Cluster:
    """The RayService's cluster with its first worker."""
    return cluster_of("students", node)


def test_head_and_worker_pass_their_probes(endpoint: Cluster) -> None:
    (worker,) = endpoint.workers
    assert endpoint.head.probe("livenessProbe")
    assert "GCS is ready." in worker.tail()
    assert not worker.ready(), "a worker is ready only with its proxy, and nothing is deployed yet"
    who = worker.run("id", "--user")
    assert who.stdout.strip() == str(USER), who.stderr
    assert "No such file" in worker.run("ls", "/root/.ssh", "/tmp/pytest-of-root").stderr
    assert worker.run("touch", "/models/x").returncode != 0
    raylet = worker.run("cat", "/tmp/ray/session_latest/logs/raylet.out").stdout.splitlines()
    assert len(raylet) > 2
    assert all({"asctime", "levelname", "message"} <= json.loads(line).keys() for line in raylet)
    # The volume holds Ray's object store.
    assert not [pod.name for pod in (endpoint.head, worker) if "object store is using" in pod.tail(20_000)]


def test_the_dashboard_requires_the_token_probes_do_not(endpoint: Cluster) -> None:
    assert endpoint.request("GET", "/api/jobs/").json() == []
    assert endpoint.request("GET", "/api/jobs/", token=None).status_code == 401
    assert endpoint.request("GET", "/api/jobs/", token=TOKEN[:-1]).status_code == 403
    assert endpoint.request("PUT", "/api/serve/applications/", token=None, json={"applications": []}).status_code == 401
    assert endpoint.request("GET", "/api/gcs_healthz", token=None).text == "success"
    with endpoint.node.entered():
        metrics = httpx.get(f"http://{endpoint.workers[0].address}:8080/metrics", timeout=30.0)
    assert metrics.status_code == 200


def test_the_rayservices_config_is_served(endpoint: Cluster) -> None:
    endpoint.deploy(yaml.safe_load(endpoint.pods.owner["spec"]["serveConfigV2"]))
    (worker,) = endpoint.workers
    endpoint.wait(worker.ready, "worker is ready")
    with endpoint.node.entered():
        answer = httpx.post(f"http://{worker.address}:8000/v1/predict", json=BODY, timeout=60.0)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["predictions"]) == 1


def test_a_canary_fails_no_request(endpoint: Cluster, folder: Path, record_property: Record) -> None:
    """Each configuration is put at once, as the operator does: the first canary, all requests to it, back, and without it."""
    write_student(folder / "data/runs/second/student", "encoder-decoder", seed=1)
    for path in (folder / "data/runs/second").rglob("*"):
        os.chown(path, USER, USER)
    steps = {share: canary(folder / share.replace("=", "-"), share) for share in ("2=10", "2=100", "2=0")}
    shipped = with_two_ingresses(endpoint.pods.owner["spec"]["serveConfigV2"])
    endpoint.deploy(shipped)
    service = Service([pod for pod in endpoint.workers if not pod.terminating])
    with service.probed():
        endpoint.wait(service.all_ready, "all workers are ready")
        with ServiceLoad(service, endpoint.node, BODY) as load:
            load.answered(40)
            for share, config in steps.items():
                before = len(load.responses)
                endpoint.deploy(config)
                load.answered(100)
                found = Counter(response.json().get("model") for response in load.responses[before:])
                record_property(f"answers at {share}", dict(found))
                assert share == "2=0" or found["word-problems@2"] > 0
            assert {r.json()["model"] for r in load.responses[-20:]} == {"word-problems@1"}
            endpoint.deploy(shipped)
            load.answered(40)
    record_property("answered", len(load.responses))
    record_property("longest, s", max(response.elapsed.total_seconds() for response in load.responses))
    assert load.failed == []


def canary(overlay: Path, share: str) -> dict[str, Any]:
    """The Serve config of dev-cpu with a second version and its share, as k8s/serve/render.py makes it."""
    for part in ("run", "settings"):
        shutil.copytree(OVERLAY / part, overlay / part)
    endpoint = yaml.safe_load((OVERLAY / "endpoint.yaml").read_text(encoding="utf-8"))
    endpoint |= {"students": [*endpoint["students"], "word-problems@2=/data/runs/second/student"], "split": [share]}
    (overlay / "endpoint.yaml").write_text(yaml.safe_dump(endpoint), encoding="utf-8")
    return with_two_ingresses(rendered(overlay))


def with_two_ingresses(text: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(text)
    config["applications"][0]["args"]["serving"]["ingress_replicas"] = 2
    return config


def test_a_worker_is_drained_under_load(endpoint: Cluster, record_property: Record) -> None:
    leaving, staying = scaled_to_two(endpoint)
    service = Service([leaving, staying])
    with service.probed():
        endpoint.wait(service.all_ready, "both workers are ready")
        with ServiceLoad(service, endpoint.node, BODY) as load:
            load.answered(40)
            leaving.terminate()
            endpoint.wait(leaving.has_ended, "drained", leaving.grace_s)
            load.answered(40)
    record_property("answered", len(load.responses))
    assert load.failed == []
    assert "did not finish draining" not in leaving.tail()


def scaled_to_two(endpoint: Cluster) -> list[RunningPod]:
    """A second worker and two replicas, one per worker: the first has no room for both."""
    there = {"entrypoint_num_cpus": 2.5, "entrypoint_resources": {f"node:{endpoint.workers[0].address}": 0.01}}
    job = {"submission_id": "no-room", "entrypoint": "sleep 600", **there}
    assert endpoint.request("POST", "/api/jobs/", json=job).status_code == 200
    endpoint.add_worker()
    wait_until(lambda: endpoint.request("GET", "/api/jobs/no-room").json()["status"] == "RUNNING")
    config = yaml.safe_load(endpoint.pods.owner["spec"]["serveConfigV2"])
    for application in config["applications"]:
        application["args"]["serving"]["replicas"]["min"] = 2
    endpoint.deploy(config)
    assert endpoint.request("POST", "/api/jobs/no-room/stop").json() == {"stopped": True}
    return endpoint.workers


@pytest.mark.timeout(900)
def test_all_rayjobs_one_after_the_other(node: Node, folder: Path) -> None:
    shutil.rmtree(folder / "data" / OUTPUT / "student")  # the endpoint's student, without training
    for stage in ARTIFACTS:
        run_job(stage, node, folder / "data")
    assert pq.read_table(folder / "data" / OUTPUT / "labels" / "data").num_rows == ROWS
