"""The endpoint under load while its parts die. No request fails, except as the test states.

Clients retry only if a connection breaks.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipelines.config.base import ReplicasConfig
from pipelines.config.serving import ServingConfig
from tests.support.endpoints import Counted, Load, endpoint_of, small, wait_until
from tests.support.local_ray import local_ray
from tests.support.tiny_students import TEXTS, write_student

pytestmark = [pytest.mark.integration, pytest.mark.serve, pytest.mark.timeout(300)]
BODY = {"model": "sums", "inputs": [TEXTS[0]]}


@pytest.fixture(scope="module")
def serving() -> ServingConfig:
    return small(replicas=ReplicasConfig(min=2, max=2))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, serving: ServingConfig) -> Iterator[str]:
    folder = write_student(tmp_path_factory.mktemp("students") / "student", "decoder-only")
    with local_ray(), endpoint_of({"sums": folder}, serving) as client:
        yield str(client.base_url)


def processes(part: str) -> list[psutil.Process]:
    """Processes of this test's Ray whose command line contains `part`. Ray names workers after their actors."""
    found = []
    for process in psutil.Process().children(recursive=True) + _of_raylet():
        try:
            if part in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return list({process.pid: process for process in found}.values())


def _of_raylet() -> list[psutil.Process]:
    """Workers of this Ray. They are children of its raylet, which has no parent here."""
    session = os.environ["RAY_TMPDIR"]
    raylets = [
        p
        for p in psutil.process_iter(["cmdline"])
        if f"{session}/ray" in " ".join(p.info["cmdline"] or [])
        and "raylet/raylet" in " ".join(p.info["cmdline"] or [])
    ]
    return [child for raylet in raylets for child in raylet.children(recursive=True)]


def kill(part: str) -> int:
    """Kill -9 one process; returns its id."""
    victim = processes(part)[0]
    victim.send_signal(signal.SIGKILL)
    return int(victim.pid)


@pytest.mark.parametrize("part", ["ServeReplica:raystill-student-sums", "ServeController"])
def test_death_of_replica_or_controller_fails_no_request(url: str, part: str, counted: Counted) -> None:
    with Load(url, BODY, retry=True) as load:
        load.answered(50)
        dead = kill(part)
        load.answered(200)
        wait_until(lambda: any(p.pid != dead for p in processes(part)), 60.0)
        load.answered(50)
    counted(load)
    assert load.failed == []
    assert load.retried == 0


@pytest.mark.full
def test_the_proxy_dies_and_clients_connect_again(url: str, counted: Counted) -> None:
    """Its connections break. Clients resend the open requests."""
    with Load(url, BODY, retry=True) as load:
        load.answered(50)
        kill("ProxyActor")
        load.answered(200)
    counted(load)
    assert load.failed == []
    assert load.retried > 0


@pytest.mark.full
def test_a_new_version_is_deployed_under_load(
    url: str, serving: ServingConfig, counted: Counted, tmp_path: Path
) -> None:
    """Other weights replace the old ones: Serve starts new replicas and drains the old ones."""
    from serving.deploy.rollout import serve_students

    other = write_student(tmp_path / "student", "decoder-only", seed=1)
    with Load(url, BODY, retry=True) as load:
        load.answered(50)
        before = load.responses[-1].json()["predictions"][0]["label"]
        serve_students({"sums": str(other)}, serving)
        wait_until(lambda: load.responses[-1].json()["predictions"][0]["label"] != before, 60.0)
        load.answered(50)
    counted(load)
    assert load.failed == []
    assert load.retried == 0


def test_the_ingress_dies(url: str, counted: Counted) -> None:
    """Requests inside the killed ingress get 5xx from Ray's proxy; later ones wait for its successor. Besides open streams
    (test_serve_engine.py), this is the only visible fault."""
    with Load(url, BODY, retry=True) as load:
        load.answered(50)
        dead = kill("ServeReplica:raystill:ingress")
        wait_until(lambda: any(p.pid != dead for p in processes("ServeReplica:raystill:ingress")), 60.0)
        load.answered(100)
    counted(load)
    assert len(load.failed) <= load.clients
    assert all(isinstance(failed, tuple) and failed[0] >= 500 for failed in load.failed), load.failed
