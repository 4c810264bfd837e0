"""`raystill serve` before and after what Serve does: what is refused before anything starts, and what is said of an endpoint."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from cluster.cli import main
from cluster.commands.serve import _bare_run, _tell, _until_signal, named_students
from cluster.session import start
from serving.api.api_keys import key_line, new_key
from serving.deploy.rollout import Endpoint
from tests.support.tiny_students import write_student

ROOT = Path(__file__).parents[3]
STARTED = "it was started"
RUNS = Endpoint("http://127.0.0.1:8000", ("sums",))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_student(tmp_path_factory.mktemp("students") / "student", "decoder-only")


@pytest.fixture(autouse=True)
def nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def session(*_: Any, **__: Any) -> Any:
        raise AssertionError(STARTED)

    monkeypatch.setattr(start, "ray_session", session)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.parametrize(
    ("argument", "name", "place"),
    [
        ("sums=s3://b/svamp/student?region=x", "sums", "s3://b/svamp/student?region=x"),
        ("sums@v1=/runs/lr=1/student", "sums@v1", "/runs/lr=1/student"),
        ("s3://b/svamp/student?region=x", "svamp", "s3://b/svamp/student?region=x"),
        ("runs/lr=1/student", "lr=1", "runs/lr=1/student"),
        ("runs/svamp/student", "svamp", "runs/svamp/student"),
    ],
)
def test_a_student_is_called_what_it_is_named_or_after_its_run(argument: str, name: str, place: str) -> None:
    assert named_students((argument,)) == {name: place}


def serve(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["serve", f"sums={folder}", *arguments])


def told(port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, as_json: bool) -> str:
    monkeypatch.setattr("ray.nodes", lambda: [{"MetricsExportPort": port}])
    _tell(RUNS, as_json=as_json, ends="Ctrl-C ends it")
    return capsys.readouterr().out


def test_a_config_for_a_cluster_needs_an_address_that_others_reach(folder: Path) -> None:
    refused = serve(folder, "--print-config")
    assert refused.exit_code == 2
    assert "serving.host 127.0.0.1" in refused.output
    assert "--set serving.host=0.0.0.0" in refused.output
    printed = serve(folder, "--set", "serving.host=0.0.0.0", "--print-config")
    assert printed.exit_code == 0, printed.output
    config = yaml.safe_load(printed.output)
    assert (config["proxy_location"], config["http_options"]["host"]) == ("EveryNode", "0.0.0.0")


def test_examples_of_printing_a_config_can_be_given_as_they_stand() -> None:
    text = CliRunner().invoke(main, ["serve", "--help"]).output + (ROOT / "README.md").read_text(encoding="utf-8")
    examples = [line for line in text.splitlines() if "raystill serve" in line and "--print-config >" in line]
    assert len(examples) == 2
    assert all("--set serving.host=0.0.0.0" in line for line in examples)


@pytest.mark.parametrize(
    ("setting", "message"),
    [("keys.file=nope", "key file"), ("keys.variable=RAYSTILL_NO_SUCH", "environment variable RAYSTILL_NO_SUCH")],
)
def test_keys_that_cannot_be_read_are_refused_before_anything_starts(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = serve(folder, "--set", f"serving.{setting}")
    assert (refused.exit_code, STARTED in str(refused.exception)) == (2, False)
    assert message in refused.output
    # Elsewhere they are looked for where the ingress runs.
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert STARTED in str(serve(folder, "--set", f"serving.{setting}").exception)


def test_keys_that_can_be_read_are_no_hindrance(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative file is the command's, and `~` its user's folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keys").write_text(key_line("team-a", new_key()) + "\n")
    for name in ("keys", "~/keys"):
        assert STARTED in str(serve(folder, "--set", f"serving.keys.file={name}").exception)


def test_what_is_said_of_an_endpoint(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    said = told(40123, monkeypatch, capsys, as_json=False)
    assert "sums at http://127.0.0.1:8000; Ctrl-C ends it." in said
    assert "  metrics http://127.0.0.1:40123/metrics\n" in said
    assert json.loads(told(40123, monkeypatch, capsys, as_json=True)) == {
        "url": "http://127.0.0.1:8000",
        "students": ["sums"],
        "metrics": "http://127.0.0.1:40123/metrics",
    }


def test_on_a_cluster_each_node_has_metrics_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert "metrics" not in told(40123, monkeypatch, capsys, as_json=False)
    assert json.loads(told(40123, monkeypatch, capsys, as_json=True))["metrics"] is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_start_and_later_drains(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """As Ray leaves it, SIGTERM raises SystemExit."""
    ended: list[bool] = []
    monkeypatch.setattr(start, "ray_session", lambda *_, **__: nullcontext())
    monkeypatch.setattr(Endpoint, "shutdown", lambda *_, ray_ends: ended.append(ray_ends))
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background of a shell ignores it
    run = _bare_run(())
    try:
        monkeypatch.setattr("serving.deploy.rollout.serve_students", lambda *_: signal.raise_signal(number))
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            _until_signal(run, {"sums": str(folder)}, {}, as_json=True, verbose=False)
        assert ended == []
        monkeypatch.setattr("serving.deploy.rollout.serve_students", lambda *_: RUNS)
        monkeypatch.setattr("cluster.commands.serve._tell", lambda *_, **__: signal.raise_signal(number))
        _until_signal(run, {"sums": str(folder)}, {}, as_json=True, verbose=False)
        assert ended == [True]
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)


def test_the_end_of_a_detached_endpoint_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "ray_session", lambda *_, **__: nullcontext())
    monkeypatch.setattr("serving.deploy.rollout.serve_students", lambda *_: RUNS)
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    detached = serve(folder, "--detach")
    assert detached.exit_code == 0, detached.output
    assert "it goes on without this command until `serve shutdown`" in detached.output
