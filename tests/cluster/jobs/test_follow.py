"""A job's log, across lost connections and restarts of the head."""

import asyncio
import io
import itertools
from collections.abc import AsyncIterator

import aiohttp
import pytest
import requests

from cluster.jobs.client import JobClient
from cluster.jobs.follow import follow
from cluster.jobs.job import DetachedError
from pipelines.errors import StageFailedError
from tests.support.fake_job_server import FakeJobServer

NAME = "raystill-try-label-00000000"
CUT = RuntimeError("WebSocket connection closed unexpectedly")
REFUSED = requests.ConnectionError("refused")
NO_HANDSHAKE = aiohttp.WSServerHandshakeError(None, (), status=500)  # type: ignore[arg-type]
SERVER_ERROR = RuntimeError("status code 500: a\nb")
PROXY_404 = RuntimeError("Request failed with status code 404: default backend - 404.")
"""A proxy before a head that is down: no word of the job."""
UNKNOWN = RuntimeError(f"Request failed with status code 404: Job {NAME} does not exist.")


@pytest.fixture
def running(server: FakeJobServer) -> FakeJobServer:
    server.put(NAME, "RUNNING")
    return server


DROPPED = [CUT, aiohttp.ServerDisconnectedError(), aiohttp.ClientPayloadError()]


@pytest.mark.parametrize("breaks", [[], [CUT], DROPPED, [NO_HANDSHAKE, ConnectionResetError()]])
@pytest.mark.parametrize("unreachable", [[], [REFUSED, REFUSED], [SERVER_ERROR], [PROXY_404]])
def test_a_log_is_copied_once_across_lost_connections(
    running: FakeJobServer, breaks: list[Exception], unreachable: list[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    running.tail_errors, running.info_errors = list(breaks), iter(unreachable)
    out = io.StringIO()
    assert follow(JobClient("http://head"), NAME, out).status == "SUCCEEDED"
    assert out.getvalue() == running.log
    assert capsys.readouterr().err.count("the job may still be running") == bool(unreachable)


def test_a_silent_connection_is_replaced(running: FakeJobServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is cut, and not closed, raises no error."""
    monkeypatch.setattr("cluster.jobs.follow._SILENT_S", 0.05)
    requests_made = []

    async def silent_at_first(job_id: str) -> AsyncIterator[str]:
        requests_made.append(job_id)
        yield running.log[:4]
        if len(requests_made) == 1:
            await asyncio.Event().wait()
        running.jobs[job_id].status = "SUCCEEDED"

    monkeypatch.setattr(running, "tail_job_logs", silent_at_first)
    out = io.StringIO()
    assert follow(JobClient("http://head"), NAME, out).status == "SUCCEEDED"
    assert (out.getvalue(), len(requests_made)) == (running.log, 2)


def test_an_unreachable_cluster_is_given_up(running: FakeJobServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.jobs.following._UNREACHABLE_S", 0.05)
    running.tail_errors, running.info_errors = [CUT], itertools.repeat(REFUSED)
    with pytest.raises(StageFailedError, match=f"no Ray answers there, for .*`raystill logs {NAME} --address"):
        follow(JobClient("http://head"), NAME, io.StringIO())


def test_a_job_whose_log_or_head_is_lost_is_followed(running: FakeJobServer) -> None:
    running.tail_errors, running.info_errors = [CUT], iter([UNKNOWN])
    ended = follow(JobClient("http://head"), NAME, io.StringIO())
    assert (ended.status, ended.reason) == ("FAILED", "its cluster has restarted and no longer knows it")
    running.jobs[NAME].status = "FAILED"
    running.tail_errors, running.log_is_lost = [NO_HANDSHAKE], True
    assert follow(JobClient("http://head"), NAME, io.StringIO()).status == "FAILED"


def test_a_closed_output_ends_the_command_and_not_the_job(running: FakeJobServer) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError("Broken pipe")

    with pytest.raises(DetachedError, match=r"Broken pipe.* The job keeps running"):
        follow(JobClient("http://head"), NAME, Closed())
