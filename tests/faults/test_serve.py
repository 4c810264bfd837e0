"""The endpoint under load while its parts die. No request fails, except as the test states.

Clients retry only if a connection breaks.
"""

from collections.abc import Iterator

import pytest

from pipelines.config.base import ReplicasConfig
from pipelines.config.serving import ServingConfig
from tests.support.endpoints import Load, endpoint_of, kill, processes, small, wait_until
from tests.support.local_ray import local_ray
from tests.support.tiny_students import TEXTS, write_student

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
BODY = {"model": "sums", "inputs": [TEXTS[0]]}


@pytest.fixture(scope="module")
def serving() -> ServingConfig:
    return small(replicas=ReplicasConfig(min=2, max=2))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, serving: ServingConfig) -> Iterator[str]:
    folder = write_student(tmp_path_factory.mktemp("students") / "student", "decoder-only")
    with local_ray(), endpoint_of({"sums": folder}, serving) as client:
        yield str(client.base_url)


@pytest.mark.parametrize("part", ["ServeReplica:raystill-student-sums", "ServeController"])
def test_death_of_replica_or_controller_fails_no_request(url: str, part: str) -> None:
    with Load(url, BODY, retry=True) as load:
        load.answered(30)
        dead = kill(part)
        load.answered(80)
        wait_until(lambda: any(p.pid != dead for p in processes(part)), 60.0)
        load.answered(30)
    assert (load.failed, load.retried) == ([], 0)


@pytest.mark.full
def test_the_proxy_dies_and_clients_connect_again(url: str) -> None:
    """Its connections break. Clients resend the open requests."""
    with Load(url, BODY, retry=True) as load:
        load.answered(30)
        kill("ProxyActor")
        load.answered(80)
    assert load.failed == []
    assert load.retried > 0


def test_the_ingress_dies(url: str) -> None:
    """Requests inside the killed ingress get 5xx from Ray's proxy; later ones wait for its successor. Besides open streams
    (test_serve_engine.py), this is the only visible fault."""
    with Load(url, BODY, retry=True) as load:
        load.answered(30)
        dead = kill("ServeReplica:raystill:ingress")
        wait_until(lambda: any(p.pid != dead for p in processes("ServeReplica:raystill:ingress")), 60.0)
        load.answered(50)
    assert len(load.failed) <= load.clients
    assert all(isinstance(failed, tuple) and failed[0] >= 500 for failed in load.failed), load.failed
