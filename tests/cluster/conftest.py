import pytest

from tests.support.fake_job_server import FakeJobServer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeJobServer:
    """The cluster that every JobClient connects to, none of whose nodes is this machine."""
    fake = FakeJobServer()
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # otherwise a client makes this process send the machine's token
    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", lambda address: fake)
    monkeypatch.setattr("cluster.jobs.client.alive_nodes", lambda address: [])
    monkeypatch.setattr("cluster.jobs.client.POLL_S", 0.0)
    monkeypatch.setattr("cluster.jobs.follow.POLL_S", 0.0)
    monkeypatch.setattr("cluster.jobs.following._RETRY_S", 0.0)
    return fake
