"""Machines that differ: differences are reported before a run starts, and a driver runs on the requested machine."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.chain import write_chain
from tests.support.machines import DASHBOARD, ROOT, Machines
from tests.support.network import Network, missing
from tests.support.object_store import Server

pytestmark = [
    pytest.mark.integration, pytest.mark.full, pytest.mark.timeout(600),
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]  # fmt: skip
CLOCK_S = -90
SITE = f"import time\nright = time.time\ntime.time = lambda: right() + {CLOCK_S}\n"


@pytest.fixture(scope="module")
def cluster(network: Network, storage: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    with (
        network.lan.entered(),
        Machines(tmp_path_factory.mktemp("machines"), network.hosts, storage.environment) as cluster,
    ):
        yield cluster


def test_a_driver_is_where_its_resource_is(cluster: Machines, storage: Server, tmp_path: Path) -> None:
    """Without a resource, the driver runs on the head."""
    chain = write_chain(tmp_path, storage.bucket(), 200)
    last = cluster.machines[2]
    dashboard = f"http://{cluster.machines[0].host.address}:{DASHBOARD}"
    place = ["--stage", "label", "--address", dashboard, "--shared", str(tmp_path)]
    for number, given in ((0, []), (2, ["--driver-resource", f"node:{last.host.address}=0.001", "--replace"])):
        done = cluster.raystill("submit", str(chain.file), *place, *given, "--json")
        assert done.returncode == 0, done.stderr[-3000:]
        job = cluster.ask(f"/api/jobs/{json.loads(done.stdout)['job']}")
        assert job["driver_node_id"] == cluster.alive()[cluster.machines[number].host.address]
    nowhere = ("--driver-resource", "node:198.18.0.99=1", "--no-wait")
    done = cluster.raystill("submit", str(chain.file), *place, *nowhere, "--json")
    assert done.returncode == 0, done.stderr
    assert cluster.ask(f"/api/jobs/{json.loads(done.stdout)['job']}")["status"] == "PENDING"
    assert "no node of the cluster has room for the driver: node:198.18.0.99 1" in done.stderr


def test_what_a_machine_has_otherwise_is_named(cluster: Machines, storage: Server, tmp_path: Path) -> None:
    """Differences in code, clock and storage permissions."""
    chain = write_chain(tmp_path, storage.bucket(), 10)
    for package in ("cluster", "pipelines", "serving"):
        shutil.copytree(ROOT / package, tmp_path / "code" / package)
    changed = tmp_path / "code" / "pipelines" / "errors.py"
    changed.write_text(changed.read_text() + "\n# another version\n")
    (tmp_path / "code" / "sitecustomize.py").write_text(SITE)
    cluster.machines[1].kill()
    cluster.start(1, PYTHONPATH=str(tmp_path / "code"), AWS_SECRET_ACCESS_KEY="of-another")
    done = cluster.raystill("label", str(chain.file))
    assert done.returncode == 2, done.stderr[-3000:]
    odd = cluster.machines[1].host.address
    assert f"1 of 3 nodes: {odd}" in done.stderr
    for message in ("another version of Raystill", "the store refuses these credentials", r"its clock is -\d\d s off"):
        assert re.search(message, done.stderr), message
    assert not chain.bucket.keys("out/")
