"""Names under which the endpoint is asked."""

from pipelines.config.serving import KeysConfig, ServingConfig
from tests.support.asgi import error_of
from tests.support.fake_students import FakeStudents, card, client_of


def test_only_own_names_are_answered() -> None:
    """A page of a stranger whose name leads to 127.0.0.1 is another host."""
    students = FakeStudents()
    for allowed, host, answered in [
        ([], "127.0.0.1:8000", True), ([], "[::1]:8000", True), ([], "LOCALHOST", True), ([], "evil.example.com", False),
        ([], "127.0.0.1.evil.com", False), ([], "", False), (["me.example.com"], "Me.example.com:8000", True),
        (["me.example.com"], "localhost", True), (["*"], "evil.example.com", True),
    ]:  # fmt: skip
        client = client_of([card("sums")], students, ServingConfig(allowed_hosts=allowed))
        response = client.get("/v1/models", headers={"host": host})
        assert response.status_code == (200 if answered else 421), (allowed, host)
        assert client.get("/readyz", headers={"host": "10.0.0.7"}).status_code == 200, "probes use addresses"
        if not answered:
            error_of(response, 421, "unknown_host")
    public = ServingConfig(host="0.0.0.0", keys=KeysConfig(none=True))
    open_client = client_of([], students, public)
    assert open_client.get("/", headers={"host": "any"}).status_code == 200
    redirected = open_client.get("/v1/models/", headers={"host": "any"}, follow_redirects=False)
    error_of(redirected, 404, "not_found")
