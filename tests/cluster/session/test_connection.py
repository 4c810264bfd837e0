"""Which cluster is called, whatever the shell's variables name, and how its errors read."""

import os
from pathlib import Path

import pytest
import ray
import requests
from ray.util.state.exception import RayStateApiException

from cluster.environment import make_ray_token, only_given_address, own_ray
from cluster.jobs.client import JobClient
from cluster.session.connection import UnreachableError, alive_nodes, dashboard_url, ray_errors
from pipelines.errors import UserError

DEAD = "127.0.0.1:9"


@pytest.fixture(autouse=True)
def _shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has used another cluster, which is gone."""
    monkeypatch.setenv("RAY_ADDRESS", DEAD)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", f"http://{DEAD}")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")


def test_an_unreachable_dashboard_is_reported_at_once() -> None:
    with pytest.raises(UnreachableError, match=r"cluster http://127\.0\.0\.1:9: no Ray answers there"):
        JobClient(DEAD)
    with pytest.raises(UnreachableError, match="no Ray answers there"):
        alive_nodes(f"http://{DEAD}")
    assert dashboard_url("https://head") == "https://head"


def http_error(status: int) -> requests.HTTPError:
    (response := requests.Response()).status_code = status
    return requests.HTTPError("made", response=response)


MISMATCH = RuntimeError(
    "Version mismatch: The cluster was started with:\n    Ray: 2.59.0\n    Python: 3.11.7\n"
    "This process on node 10.0.0.1 was started with:\n    Ray: 2.60.0\n    Python: 3.12.1\n"
)
NO_ANSWER, NO_TOKEN = "no Ray answers there. Reach it.", "it needs a token, .* Set RAY_AUTH_MODE=token"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("Failed to connect"), NO_ANSWER),
        (requests.exceptions.InvalidURL("bad"), NO_ANSWER),
        (ray.exceptions.RpcError("UNAVAILABLE"), NO_ANSWER),
        (http_error(401), NO_TOKEN),
        (http_error(403), NO_TOKEN),
        (ray.exceptions.AuthenticationError("InvalidAuthToken"), NO_TOKEN),
        (http_error(502), "it answers made"),
        (RuntimeError("Request failed with status code 500: Traceback\n  it broke"), "it answers it broke"),
        (RayStateApiException("API server internal error"), "it answers API server internal error"),
        (MISMATCH, "it runs Ray 2.59.0 with Python 3.11.7, and this is Raystill on Ray 2.60.0 with Python 3.12.1"),
    ],
)
def test_each_error_of_rays_clients_is_one_message(error: Exception, message: str) -> None:
    with pytest.raises(UserError, match=f"cluster head: {message}"), ray_errors("cluster head", "Reach it."):
        raise error


def test_variables_are_restored_after_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS")
    with only_given_address():
        assert "RAY_ADDRESS" not in os.environ
    assert os.environ["RAY_ADDRESS"] == DEAD
    with own_ray():
        assert "RAY_API_SERVER_ADDRESS" in os.environ
    assert "RAY_API_SERVER_ADDRESS" not in os.environ


def test_a_token_is_made_once_and_only_for_its_owner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / ".ray" / "auth_token"
    make_ray_token()
    assert not file.exists(), "RAY_AUTH_MODE is disabled"
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a-token-of-the-shell")
    make_ray_token()
    assert (os.environ["RAY_AUTH_MODE"], file.exists()) == ("token", False)
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    make_ray_token()
    token = file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    make_ray_token()
    assert file.read_text() == token
