"""Where actors without CPUs live on a cluster of several nodes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.nodes import ray_nodes
from tests.integration.commands import environment

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
ACTORS = 6

# A process with the cluster's own variables: one Ray leaves RAY_AUTH_MODE behind in its process, and with a token that the cluster does not
# want, its head cannot ask the driver for its references and takes the actors to be given up.
DRIVER = """
import json, sys
import ray
from pipelines.nodes import node_name, on_this_node

class Where:
    def name(self):
        return node_name()

ray.init(address=sys.argv[1], log_to_driver=False)
kept = ray.remote(num_cpus=0, scheduling_strategy=on_this_node())(Where)
anywhere = ray.remote(num_cpus=0)(Where)
actors = [kept.remote() for _ in range(int(sys.argv[2]))]
found = {"here": node_name(), "kept": ray.get([actor.name.remote() for actor in actors]), "others": []}
while set(found["others"]) <= {found["here"]} and len(found["others"]) < 24:
    actors.append(anywhere.remote())
    found["others"].append(ray.get(actors[-1].name.remote()))
print(json.dumps(found))
"""


def test_an_actor_kept_on_this_node_is_there_and_others_are_anywhere() -> None:
    with ray_nodes(2) as cluster:
        done = subprocess.run(
            [sys.executable, "-c", DRIVER, cluster.address, str(ACTORS)],
            capture_output=True,
            text=True,
            check=False,
            env={**environment(), "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["kept"] == [found["here"]] * ACTORS
    assert set(found["others"]) - {found["here"]}, "were they all here, there would be nothing to keep"
