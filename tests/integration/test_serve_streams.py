"""Generation stops when the client disconnects."""

import time
from collections.abc import Iterator

import httpx
import pytest

from tests.support.endpoints import endpoint_of, longest, small
from tests.support.local_ray import local_ray
from tests.support.tiny_students import write_student

pytestmark = [pytest.mark.integration, pytest.mark.full, pytest.mark.timeout(600)]
TOKENS = 400


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """One long text at a time: the second starts when the first ends."""
    pytest.importorskip("vllm")
    folder = write_student(tmp_path_factory.mktemp("students") / "student", "decoder-only", width=256)
    settings = small(engine="vllm", max_new_tokens=TOKENS, max_batch_size=1)
    with local_ray(), endpoint_of({"sums": folder}, settings) as client:
        yield client


@pytest.mark.parametrize("stream", [True, False])
def test_a_request_without_client_stops_generating(client: httpx.Client, stream: bool) -> None:
    """Each client disconnects early. If generation continued, the next request would wait for its end."""
    body, whole_s = longest(client, TOKENS)
    rounds = 10
    began = time.monotonic()
    for _ in range(rounds):
        if stream:
            with client.stream("POST", "/v1/completions", json=body) as response:
                assert response.status_code == 200
                next(response.iter_lines())
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.post("/v1/completions", json={**body, "stream": False}, timeout=whole_s / 10)
    assert client.post("/v1/completions", json={**body, "stream": False, "max_tokens": 1}).status_code == 200
    assert time.monotonic() - began < rounds * whole_s / 2
