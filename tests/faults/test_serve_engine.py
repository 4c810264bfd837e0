"""An engine that dies without its replica, as if killed for memory, or hangs, and a replica that dies during streams."""

import json
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from pipelines.config.base import ReplicasConfig
from tests.support.endpoints import Load, endpoint_of, kill, longest, processes, small, wait_until
from tests.support.local_ray import local_ray
from tests.support.tiny_students import TEXTS, write_student

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]
TOKENS = 400
BODY = {"model": "sums", "inputs": [TEXTS[0]]}
REPLICA = "ServeReplica:raystill-student-sums"


def streamed(url: str, body: dict[str, Any], stop: threading.Event, ended: Counter[str]) -> None:
    """Request one stream after another and count how they end."""
    with httpx.Client(base_url=url, timeout=60.0) as client:
        while not stop.is_set():
            with client.stream("POST", "/v1/completions", json=body) as response:
                events = [line.removeprefix("data: ") for line in response.iter_lines() if line]
            error = json.loads(events[-1]).get("error", {}).get("code") if events[-1] != "[DONE]" else None
            ended[f"{response.status_code} {error or 'whole'}"] += 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pytest.importorskip("vllm")
    return write_student(tmp_path / "student", "decoder-only", width=256)


def test_begun_streams_end_with_an_error_if_their_replica_dies(folder: Path) -> None:
    """Sent text cannot be revoked, so no other replica continues it. Streams that have not started are retried."""
    settings = small(engine="vllm", replicas=ReplicasConfig(min=2, max=2), max_new_tokens=TOKENS)
    stop, ended = threading.Event(), Counter[str]()
    with local_ray(), endpoint_of({"sums": folder}, settings) as client, ThreadPoolExecutor(4) as pool:
        body, _ = longest(client, TOKENS)
        clients = [pool.submit(streamed, str(client.base_url), body, stop, ended) for _ in range(4)]
        try:
            for _ in range(3):  # a kill may fall between two streams
                wait_until(lambda: ended["200 whole"] >= 8)
                dead = kill(REPLICA)
                before = ended["200 whole"]
                wait_until(lambda before=before: ended["200 whole"] >= before + 20, 120.0)
                wait_until(lambda dead=dead: len({p.pid for p in processes(REPLICA)} - {dead}) == 2, 120.0)
                if ended["200 model_away"]:
                    break
        finally:
            stop.set()
        for one in clients:
            one.result()
    assert set(ended) <= {"200 whole", "200 model_away"}, "the other replica answers streams that had not started"
    assert 1 <= ended["200 model_away"] <= 4, "at most the open streams of one replica"


def test_a_killed_vllm_is_replaced_without_a_failed_request(folder: Path) -> None:
    settings = small(engine="vllm", replicas=ReplicasConfig(min=2, max=2))
    with (
        local_ray(),
        endpoint_of({"sums": folder}, settings) as client,
        Load(str(client.base_url), BODY, retry=True) as load,
    ):
        load.answered(50)
        replicas = {p.pid for p in processes(REPLICA)}
        processes("VLLM::EngineCore")[0].kill()

        def replaced() -> bool:
            now = {p.pid for p in processes(REPLICA)}
            return len(replicas - now) == 1 and len(now) == 2 and len(processes("VLLM::EngineCore")) == 2

        wait_until(replaced, 120.0, of=lambda: "the successor")
        load.answered(50)
    assert (load.failed, load.retried) == ([], 0)


def test_a_stopped_vllm_is_detected_and_replaced(folder: Path) -> None:
    """Requests to the hanging engine get 504 after `request_timeout_s`. Its processes end and a successor answers."""
    settings = small(engine="vllm", request_timeout_s=20.0)
    with local_ray(), endpoint_of({"sums": folder}, settings) as client:
        wait_until(lambda: _status(client) == 200, 120.0)
        core = processes("VLLM::EngineCore")[0]
        replica = processes(REPLICA)[0]
        core.send_signal(signal.SIGSTOP)
        assert _status(client) == 504
        assert core.status() == psutil.STATUS_STOPPED
        wait_until(lambda: not replica.is_running() and not core.is_running(), 300.0, of=lambda: "the replica's end")
        wait_until(lambda: _status(client) == 200, 120.0, of=lambda: "an answer of the successor")


def _status(client: httpx.Client) -> int:
    return client.post("/v1/predict", json=BODY, timeout=60.0).status_code
