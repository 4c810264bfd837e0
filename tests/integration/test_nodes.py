"""Several nodes and several Rays on one machine: actor placement, tokens and isolation."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import environment, raystill, running
from tests.support.endpoints import wait_until
from tests.support.nodes import ray_nodes
from tests.support.run_files import label_run, write_run_file
from tests.support.tiny_runs import label_rows, make_model, make_run, write_labels

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
ACTORS = 6

# A separate process: Ray leaves RAY_AUTH_MODE in its process. With a token that the cluster does not expect, the head cannot query the
# driver's references and drops the actors.
DRIVER = """
import json, sys
import ray
from pipelines.runtime.nodes import node_name, on_this_node

class NodeReader:
    def name(self):
        return node_name()

ray.init(address=sys.argv[1], log_to_driver=False)
kept = ray.remote(num_cpus=0, scheduling_strategy=on_this_node())(NodeReader)
anywhere = ray.remote(num_cpus=0)(NodeReader)
actors = [kept.remote() for _ in range(int(sys.argv[2]))]
found = {"here": node_name(), "kept": ray.get([actor.name.remote() for actor in actors]), "others": []}
while set(found["others"]) <= {found["here"]} and len(found["others"]) < 24:
    actors.append(anywhere.remote())
    found["others"].append(ray.get(actors[-1].name.remote()))
print(json.dumps(found))
"""


def test_an_actor_pinned_to_this_node_runs_there() -> None:
    with ray_nodes(2) as cluster:
        command = [sys.executable, "-c", DRIVER, cluster.address, str(ACTORS)]
        path = {"PYTHONPATH": str(Path(__file__).parents[2])}
        found = json.loads(subprocess.check_output(command, text=True, env=environment() | path))
    assert found["kept"] == [found["here"]] * ACTORS
    assert set(found["others"]) - {found["here"]}, "actors must spread for a meaningful test"


@pytest.mark.full
def test_a_token_for_a_cluster_without_one_is_refused(tmp_path: Path) -> None:
    run = label_run(tmp_path, [{"id": "a", "input": "What is 1 + 1?", "label": "1 + 1"}])
    command = ("label", str(write_run_file(tmp_path, run)))
    token = {**environment(), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "c" * 32}
    with ray_nodes(1) as cluster:
        refused = raystill(*command, env={**token, "RAY_ADDRESS": cluster.address})
        assert refused.returncode == 2, refused.stderr
        assert f"RAY_AUTH_MODE token: the cluster at {cluster.address} works without tokens" in refused.stderr
        assert not (tmp_path / "out").exists()
        done = raystill(*command, env={**token, "RAY_ADDRESS": cluster.address, "RAY_AUTH_MODE": "disabled"})
    assert done.returncode == 0, done.stderr
    assert "waiting for other work" not in done.stderr


@pytest.mark.full
def test_a_second_ray_does_not_disturb_a_training(tmp_path: Path) -> None:
    """Ray Train queries an API server for its controller. A Ray without one uses port 8265, possibly another Ray's server."""
    write_labels(tmp_path / "out", label_rows(60))
    model = make_model("decoder-only", tmp_path / "model")
    run = make_run(tmp_path / "out", model, training={"epochs": 80, "max_failures": 0})
    with running("train", str(write_run_file(tmp_path, run)), log=tmp_path / "log") as process:
        wait_until(lambda: any((tmp_path / "out").glob("tensorboard/*/events*")), 120.0)
        with ray_nodes(1):
            with socket.create_connection(("127.0.0.1", 8265)):
                pass
            assert process.poll() is None, "the training ended too early"
            process.wait()
        assert process.returncode == 0, (tmp_path / "log").read_text()
