"""The chain on three nodes (`raystill up`) with all files on an S3 server: which node did what."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.chain import HELD_OUT, Chain, shares, write_chain
from tests.support.commands import COMMAND
from tests.support.endpoints import free_port, running_replicas
from tests.support.object_store import Server

pytestmark = [pytest.mark.integration, pytest.mark.deepspeed, pytest.mark.serve, pytest.mark.timeout(300)]
NODES = 3
ROWS = 800
SLOW = {"latency_s": 0.4}
"""20 rows/s per node, about 14 s: different start times of the actors hardly matter."""
TOKEN = "a-token-of-this-test-and-no-other"
Raystill = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def raystill(tmp_path_factory: pytest.TempPathFactory, s3_server: Server) -> Iterator[Raystill]:
    """JSON of a successful command in an empty folder."""
    folder = tmp_path_factory.mktemp("client")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | {
        "RAYSTILL_CACHE": str(folder / "cache"), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }  # fmt: skip

    def run(*arguments: str) -> dict[str, Any]:
        command = [*COMMAND, *arguments, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)
        assert done.returncode == 0, done.stderr[-5000:]
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    try:
        cluster = run("up", "--nodes", str(NODES))
        environment["RAY_ADDRESS"] = cluster["address"]
        run.dashboard = cluster["dashboard"]  # type: ignore[attr-defined]
        yield run
    finally:
        subprocess.run([*COMMAND, "down"], env=environment, cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, s3_server: Server) -> Chain:
    return write_chain(tmp_path_factory.mktemp("run"), s3_server.bucket(), ROWS, teacher=SLOW, training={"epochs": 1})


@pytest.fixture(scope="module")
def made(raystill: Raystill, chain: Chain) -> dict[str, Any]:
    """Summaries of label, train and evaluate by stage."""
    return {stage["stage"]: stage for stage in raystill("run", str(chain.file))["stages"]}


def test_every_node_labels_at_least_a_fifth_of_the_rows(made: dict[str, Any], chain: Chain) -> None:
    rows = made["label"]["nodes"]
    print(json.dumps({"rows by node": rows}))
    assert sum(rows.values()) == ROWS + HELD_OUT
    assert len(rows) == NODES
    assert min(shares(rows).values()) >= 0.2, rows
    assert chain.lost_and_doubled() == (0, 0)


def test_two_nodes_train_one_student(made: dict[str, Any], chain: Chain) -> None:
    training = chain.manifest("student")["details"]["training"]
    (ranks,) = training["nodes"]
    print(json.dumps({"ranks": ranks, "optimizer bytes": training["optimizer_bytes_per_rank"]}))
    assert len(set(ranks)) == training["world_size"] == 2
    one, two = training["optimizer_bytes_per_rank"]
    each_weight = 3 * 4  # float32 weights and two moments, partitioned over all nodes
    assert one == two
    assert one + two == pytest.approx(each_weight * chain.manifest("student")["details"]["parameters"], rel=0.01)
    assert made["evaluate"]["counts"]


def test_two_nodes_serve_the_student(raystill: Raystill, made: dict[str, Any], chain: Chain) -> None:
    served = raystill(
        "serve", f"sums={chain.student}", "--run", str(chain.file), "--detach", "--set", f"serving.port={free_port()}"
    )
    with httpx.Client(base_url=served["url"], trust_env=False, timeout=60.0) as client:
        answers = [client.post("/v1/predict", json={"inputs": ["Anne has 4 pens ."]}) for _ in range(20)]
    assert {answer.status_code for answer in answers} == {200}
    replicas = replicas_by_node(raystill.dashboard)  # type: ignore[attr-defined]
    print(json.dumps(replicas))
    assert {name: sorted(nodes.values()) for name, nodes in replicas.items()} == {
        "raystill": [1, 1], "raystill-student-sums": [1, 1],
    }  # fmt: skip


def replicas_by_node(dashboard: str) -> dict[str, dict[str, int]]:
    """Application -> node -> number of running replicas."""
    url = f"{dashboard}/api/serve/applications/"
    details = httpx.get(url, headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False).raise_for_status().json()
    return {name: Counter(r["node_id"][:8] for r in running) for name, running in running_replicas(details).items()}
