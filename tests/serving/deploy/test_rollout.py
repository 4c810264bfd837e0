"""Start, change and end of an endpoint, with a fake Serve."""

import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

from pipelines.config.serving import KeysConfig, ServingConfig, TlsConfig
from pipelines.errors import StageFailedError, UserError
from serving.deploy import readiness
from serving.deploy import rollout as module
from serving.deploy.address import check_running_proxy, check_tls
from serving.deploy.readiness import wait_until_answered, wait_until_running
from serving.deploy.rollout import Endpoint, serve_students
from tests.support.serve_applications import OTHER, applications

Reply = dict[str, str] | Exception


class FakeController:
    """Records which applications Serve is to run."""

    def __init__(self, *running: ServeApplicationSchema, without_config: str | None = None) -> None:
        self.details: dict[str, Any] = {
            application.name: {"deployed_app_config": application.model_dump(exclude_unset=True)}
            for application in running
        }
        if without_config:
            self.details[without_config] = {"deployed_app_config": None}
        self.deployed: list[list[str]] = []
        self.http_config = SimpleNamespace(host="127.0.0.1", port=8000, request_timeout_s=125.0, ssl_certfile=None)

    def get_serve_details(self) -> dict[str, Any]:
        return {"applications": self.details}

    def deploy_apps(self, config: ServeDeploySchema) -> None:
        self.deployed.append([application.name for application in config.applications])


class EndingServe:
    """Applications that end after a number of status calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, after: int, *names: str) -> None:
        self.left, self.after, self.calls = dict.fromkeys(names, 0), after, list[list[str]]()
        self._deleted: set[str] = set()
        monkeypatch.setattr(module.serve, "status", self.status)
        monkeypatch.setattr(module.serve, "shutdown", lambda: self.calls.append(["all of Serve"]))
        monkeypatch.setattr(module, "delete_applications", self.delete)
        monkeypatch.setattr(readiness, "_POLL_S", 0.0)

    def status(self) -> Any:
        for name in self._deleted & set(self.left):
            self.left[name] += 1
        self.left = {name: count for name, count in self.left.items() if count < self.after}
        return SimpleNamespace(applications=dict.fromkeys(self.left))

    def delete(self, names: set[str]) -> None:
        self.calls.append(sorted(names))
        self._deleted |= names


def ingress_replies(monkeypatch: pytest.MonkeyPatch, *replies: Any, wait_s: float = 0.0) -> None:
    """A running ingress whose replicas reply with the students that they cannot read. The last reply stays."""
    status = SimpleNamespace(applications={"raystill": SimpleNamespace(status=SimpleNamespace(value="RUNNING"))})
    results = Mock(side_effect=[*replies, *[replies[-1]] * 1000])
    handle = SimpleNamespace(broadcast=lambda method: {"unavailable": SimpleNamespace(results=results)}[method])
    monkeypatch.setattr(module.serve, "status", lambda: status)
    monkeypatch.setattr(module.serve, "get_deployment_handle", lambda *_: handle)
    monkeypatch.setattr(readiness, "READ_AGAIN_S", wait_s)
    monkeypatch.setattr(readiness, "_INGRESS_POLL_S", 0.01)


STUDENTS = {"a": "/s/a", "b": "/s/b"}
APPLICATIONS = ["raystill", "raystill-student-a", "raystill-student-b"]
SERVING = ServingConfig()


@pytest.fixture
def serve_with(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeController]:
    """Makes a Serve run; the new endpoint has students `a` and `b`. `wait`: what happens while applications start."""

    def start(*running: ServeApplicationSchema, wait: Callable[[list[str]], None], **options: Any) -> FakeController:
        controller = FakeController(*running, **options)
        wanted = ServeDeploySchema(applications=applications("a", "b"))
        monkeypatch.setattr(module, "endpoint_config", lambda *_: wanted)
        monkeypatch.setattr(module.ray, "is_initialized", lambda: True)
        monkeypatch.setattr(module, "serve_controller", lambda: controller)
        monkeypatch.setattr(module, "wait_until_running", wait)
        monkeypatch.setattr(module, "wait_until_answered", lambda *_: None)
        return controller

    return start


@pytest.mark.parametrize("error", [StageFailedError("student-b: its weights lack lm_head"), KeyboardInterrupt()])
def test_a_failed_change_restores_the_endpoint(serve_with: Callable[..., FakeController], error: BaseException) -> None:

    controller = serve_with(*applications("a"), without_config="shop", wait=Mock(side_effect=error))
    match = "student-b: its weights lack lm_head; the endpoint runs as before" if str(error) else None
    with pytest.raises(type(error), match=match):
        serve_students(STUDENTS, SERVING)
    assert controller.deployed == [APPLICATIONS, APPLICATIONS[:2]]


def test_applications_of_others_stay_and_are_not_awaited(serve_with: Callable[..., FakeController]) -> None:
    """Those of `serve.run` have no config, and no config file changes them."""
    waited: list[list[str]] = []
    controller = serve_with(OTHER, without_config="started-by-code", wait=waited.append)
    assert serve_students(STUDENTS, SERVING).url == "http://127.0.0.1:8000"
    assert controller.deployed == [[*APPLICATIONS, "shop"]]
    assert waited == [APPLICATIONS]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"port": 8001}, "serving.port 8001: Serve already runs on this Ray, with port 8000"),
        ({"host": "0.0.0.0", "keys": KeysConfig(none=True)}, "serving.host 0.0.0.0: .* with host 127.0.0.1"),
        ({"tls": TlsConfig(certificate="/c", key="/k")}, "serving.tls.certificate /c: .* with tls.certificate None"),
        ({"request_timeout_s": 121.0}, "request_timeout_s 121: .* ends requests after 125 s. Set at most 120"),
    ],
)
def test_a_running_serve_keeps_its_address(serve_with: Callable[..., Any], settings: Any, match: str) -> None:
    controller = serve_with(*applications("a"), wait=lambda _: pytest.fail("something started"))
    with pytest.raises(UserError, match=match):
        serve_students({"a": "/s/a"}, ServingConfig(**settings))
    assert controller.deployed == []


def test_a_shorter_time_limit_needs_no_other_serve() -> None:
    for limit_s in (None, 125.0, 1000.0):
        http: Any = SimpleNamespace(host="127.0.0.1", port=8000, request_timeout_s=limit_s, ssl_certfile=None)
        check_running_proxy(http, ServingConfig(request_timeout_s=120.0))
        check_running_proxy(http, ServingConfig(request_timeout_s=5.0))


def test_an_encrypted_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSSL would ask the terminal for its password."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, passwords in (("open", "-nodes"), ("closed", "-passout pass:secret")):
        make = f"openssl req -x509 -newkey rsa:2048 {passwords} -subj /CN=a -keyout {name}.key -out {name}.crt"
        subprocess.run(make.split(), cwd=tmp_path, check=True, capture_output=True)
    check_tls(TlsConfig(certificate="~/open.crt", key="~/open.key"))
    with pytest.raises(UserError, match="without a password"):
        check_tls(TlsConfig(certificate="~/closed.crt", key="~/closed.key"))


def test_what_cannot_start_is_refused_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refused(match: str, students: dict[str, str] = STUDENTS, **settings: Any) -> None:
        with pytest.raises(UserError, match=match):
            serve_students(students, ServingConfig(**settings))

    refused("no finished student", {"a": str(tmp_path)})
    monkeypatch.setattr(module, "endpoint_config", lambda *_: None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        refused(f"serving.port {(port := taken.getsockname()[1])}", port=port)
    refused("it is no address of this machine", host="192.0.2.1", port=8123, keys=KeysConfig(none=True))
    nowhere = TlsConfig(certificate="/nowhere/crt", key="/nowhere/key")
    refused(r"serving.tls.certificate /nowhere/crt .*No such file", tls=nowhere)


INGRESS, *REPLICAS = APPLICATIONS


@pytest.mark.parametrize(("others", "after"), [([], 3), (["shop"], 3), ([], 10**9)], ids=["alone", "beside", "late"])
def test_the_ingress_ends_before_the_students(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], others: list[str], after: int
) -> None:
    serve = EndingServe(monkeypatch, after, *APPLICATIONS, *others)
    Endpoint("http://x", ("a", "b"), drain_s=0.01 if after > 3 else 60.0).shutdown()
    assert serve.calls == [[INGRESS], REPLICAS, *([] if others else [["all of Serve"]])]
    assert ("serve: raystill did not end in time" in capsys.readouterr().err) == (after > 3)


def test_an_unused_endpoint_is_discarded_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    for others, calls in (([], [["all of Serve"]]), (["shop"], [APPLICATIONS])):
        serve = EndingServe(monkeypatch, 10**9, *APPLICATIONS, *others)
        Endpoint("http://x", ("a", "b")).discard()
        assert serve.calls == calls


UNREADABLE = {"a": "/s/a: the folder does not exist. Give the folder of a student."}
NO_REPLICA = RayServeException("no replica")


@pytest.mark.parametrize(
    ("replies", "problem"),
    [
        ([UNREADABLE], "cannot read /s/a: the folder does not"),
        ([TimeoutError(), NO_REPLICA, UNREADABLE], "cannot read /s/a: the folder does not"),
        (NO_REPLICA, r"does not answer \(no replica\)"),
        ([{}, NO_REPLICA], r"does not answer \(no replica\)"),
        # A busy replica is no problem.
        (TimeoutError(), None),
        ([TimeoutError(), {}], None),
        ([{}, {}], None),
    ],
)
def test_every_ingress_replica_must_read_the_students(
    monkeypatch: pytest.MonkeyPatch, replies: Sequence[Reply] | Exception, problem: str | None
) -> None:
    """Each runs on a node that may not see the folder."""
    ingress_replies(monkeypatch, replies)
    match = f"does not start: its ingress {problem}"
    with pytest.raises(StageFailedError, match=match) if problem else nullcontext():
        wait_until_running(["raystill"])


def test_a_removed_student_answers_its_open_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = [[{"a": 2}, {"b": 1}], [{"b": 1}, {}], [RuntimeError(), {"a": 1}]]
    monkeypatch.setattr(readiness, "_broadcast", lambda _: rounds.pop(0))
    monkeypatch.setattr(readiness, "_POLL_S", 0.0)
    wait_until_answered({"b"}, time.monotonic() + 60.0)
    assert rounds == []
    monkeypatch.setattr(readiness, "_broadcast", lambda _: [{"b": 1}])
    wait_until_answered({"b"}, time.monotonic() + 0.05)  # a request beyond its time limit delays nothing


def test_a_second_attempt_of_the_ingress_may_succeed(monkeypatch: pytest.MonkeyPatch) -> None:
    ingress_replies(monkeypatch, [UNREADABLE, {}], [NO_REPLICA], [{}, {}], wait_s=60.0)
    wait_until_running(["raystill"])


@pytest.mark.parametrize("states", [{"raystill": ("DEPLOY_FAILED", "Traceback:\n  its weights lack lm_head\n")}, {}])
def test_an_application_that_fails_or_hangs_is_reported(monkeypatch: pytest.MonkeyPatch, states: Any) -> None:
    found = {
        name: SimpleNamespace(status=SimpleNamespace(value=value), message=message, deployments={})
        for name, (value, message) in states.items()
    }
    monkeypatch.setattr(module.serve, "status", lambda: SimpleNamespace(applications=found))
    monkeypatch.setattr(readiness, "_START_S", 0.0)
    monkeypatch.setattr(readiness, "_POLL_S", 0.0)
    match = "raystill: its weights lack lm_head" if states else r"\(raystill: NOT_STARTED\)\. New students start beside"
    with pytest.raises(StageFailedError, match=match):
        wait_until_running(["raystill"])
