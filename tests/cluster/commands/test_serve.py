"""`raystill serve` around Serve itself: what is refused before anything starts, and what is printed."""

import json
import shlex
import signal
import socket
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from click.testing import CliRunner, Result

from cluster.cli import main
from cluster.commands.serve import (
    Output,
    _print_endpoint,
    _serve_until_signal,
    _serving_only,
    named_split,
    named_students,
)
from cluster.session import start
from pipelines.config.serving import ServingConfig
from pipelines.errors import UserError
from pipelines.tasks import load_task, task_spec
from serving.api.api_keys import key_line, new_key
from serving.deploy.first_request import first_request
from serving.deploy.rollout import Endpoint
from tests.support.endpoints import free_port
from tests.support.tiny_students import write_student

RUNS = Endpoint("http://127.0.0.1:8000", ("sums",))


class StartedError(Exception):
    """Ray would have been started."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_student(tmp_path_factory.mktemp("students") / "student", "decoder-only")


@pytest.fixture(autouse=True)
def _nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "ray_session", Mock(side_effect=StartedError))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.parametrize(
    ("argument", "name", "place"),
    [
        ("sums=s3://b/svamp/student?region=x", "sums", "s3://b/svamp/student?region=x"),
        ("sums@v1=/runs/lr=1/student", "sums@v1", "/runs/lr=1/student"),
        ("s3://b/svamp/student?region=x", "svamp", "s3://b/svamp/student?region=x"),
        ("runs/lr=1/student", "lr=1", "runs/lr=1/student"),
    ],
)
def test_a_student_is_named_by_the_user_or_after_its_run(argument: str, name: str, place: str) -> None:
    assert named_students((argument,)) == {name: place}


def test_shares_belong_to_versions() -> None:
    students = {"sums@old": "a", "sums@new": "b", "topics": "c"}
    assert named_split(["old=90", "sums@new=10"], students) == {"sums": {"old": 90.0, "new": 10.0}}
    for wrong in (["old=90", "sums@old=10"], ["old=most"], ["old"]):
        with pytest.raises(UserError, match=f"--split {wrong[-1]}"):
            named_split(wrong, students)
    with pytest.raises(UserError, match="2 students have versions"):
        named_split(["old=90"], {**students, "topics@a": "d"})


def serve(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["serve", f"sums={folder}", "--set", f"serving.port={free_port()}", *arguments])


def test_a_taken_port_is_refused_before_students_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = serve(Path("/nowhere"), "--set", f"serving.port={port}")
    assert (refused.exit_code, f"serving.port {port} on 127.0.0.1: " in refused.output) == (2, True), refused.output
    assert f"`--set serving.port={port + 1}`" in refused.output
    elsewhere = serve(Path("/nowhere"), "--set", "serving.host=192.0.2.1")
    assert "serving.host 192.0.2.1: it is no address of this machine" in elsewhere.output
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")  # the head's ports are not this machine's
    assert "/nowhere" in serve(Path("/nowhere"), "--set", f"serving.port={port}").output


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("keys.file=nope", "key file"),
        ("keys.variable=RAYSTILL_NO_SUCH", "environment variable RAYSTILL_NO_SUCH"),
        ("keys.file=keys", None),
        ("keys.file=~/keys", None),
    ],
)
def test_unreadable_keys_are_refused_before_anything_starts(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, message: str | None
) -> None:
    """A relative file is this command's, and `~` its user's. On a cluster, the ingress reads the keys elsewhere."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keys").write_text(key_line("team-a", new_key()) + "\n")
    result = serve(folder, "--set", f"serving.{setting}")
    if message:
        assert (result.exit_code, message in result.output) == (2, True), result.output
        monkeypatch.setenv("RAY_ADDRESS", "head:6379")
        result = serve(folder, "--set", f"serving.{setting}")
    assert isinstance(result.exception, StartedError)


@pytest.mark.parametrize(
    ("settings", "others", "header"),
    [
        ({}, {}, []),
        ({"keys": {"file": "keys"}}, {"other": "/nowhere"}, ["-H", "Authorization: Bearer $KEY"]),
        ({"replicas": {"min": 1}}, {"sums@2": "/nowhere"}, []),
    ],
)
def test_the_first_request_suits_student_and_settings(
    folder: Path, settings: dict[str, Any], others: dict[str, str], header: list[str]
) -> None:
    serving = ServingConfig.model_validate(settings)
    lines = first_request({"sums@1": str(folder), **others}, serving).lines("http://127.0.0.1:8000")
    [curl] = [line for line in lines if line.startswith("curl")]
    words = shlex.split(curl)
    content = ["-H", "Content-Type: application/json", "-d"]
    assert words[:-1] == ["curl", "-s", "http://127.0.0.1:8000/v1/predict", *header, *content]
    body = json.loads(words[-1])
    assert load_task(task_spec("arithmetic")).read(body["inputs"][0]).input
    assert (body["rationale"], body.get("model")) == (True, "sums" if "other" in others else None)
    assert lines[0].startswith("KEY=...") == bool(header)
    assert ("half a minute" in lines[-1]) == (serving.replicas.min == 0)


def test_the_endpoint_is_printed_with_a_request_and_its_metrics_url(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    request = first_request({"sums": str(folder)}, ServingConfig())

    def printed(*, as_json: bool) -> str:
        _print_endpoint(RUNS, Output(as_json, verbose=False, request=request), stop="Stop it with Ctrl-C")
        return capsys.readouterr().out

    monkeypatch.setattr("ray.nodes", lambda: [{"MetricsExportPort": 40123}])
    text = printed(as_json=False)
    assert "sums at http://127.0.0.1:8000. Stop it with Ctrl-C." in text
    assert "\n  curl -s http://127.0.0.1:8000/v1/predict -H 'Content-Type: application/json' -d '{" in text
    assert "  metrics http://127.0.0.1:40123/metrics\n" in text
    fields = {"url": "http://127.0.0.1:8000", "students": ["sums"], "metrics": "http://127.0.0.1:40123/metrics"}
    assert json.loads(printed(as_json=True)) == fields
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")  # each node of a cluster has its own
    assert "metrics" not in printed(as_json=False)
    assert json.loads(printed(as_json=True)) == {**fields, "metrics": None}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_start_and_later_drains(folder: Path, monkeypatch: pytest.MonkeyPatch, number: Any) -> None:
    """Ray's handler for SIGTERM raises SystemExit."""
    ended: list[bool] = []
    monkeypatch.setattr(start, "ray_session", lambda *_, **__: nullcontext())
    monkeypatch.setattr(Endpoint, "shutdown", lambda *_, ray_ends: ended.append(ray_ends))
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background processes ignore it
    arguments = _serving_only(()), {"sums": str(folder)}, {}, Output(as_json=True, verbose=False)
    try:
        monkeypatch.setattr("serving.deploy.rollout.serve_students", lambda *_, **__: signal.raise_signal(number))
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            _serve_until_signal(*arguments)
        assert ended == []
        monkeypatch.setattr("serving.deploy.rollout.serve_students", lambda *_, **__: RUNS)
        monkeypatch.setattr("cluster.commands.serve._print_endpoint", lambda *_, **__: signal.raise_signal(number))
        _serve_until_signal(*arguments)
        assert ended == [True]
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)


def test_a_detached_endpoint_says_how_to_stop_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = serve(folder, "--detach")
    assert (refused.exit_code, "Set RAY_ADDRESS to a cluster" in refused.output) == (2, True)
    monkeypatch.setattr(start, "ray_session", lambda *_, **__: nullcontext())
    monkeypatch.setattr("serving.deploy.rollout.serve_students", lambda *_, **__: RUNS)
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    detached = serve(folder, "--detach")
    assert detached.exit_code == 0, detached.output
    assert "Stop it with `serve shutdown`" in detached.output
