"""What is found out about nodes before a run, and what is refused."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import pytest
from rich.console import Console

from cluster.session.preflight import (
    LISTED,
    Look,
    NodeCheck,
    check_output,
    look_around,
    nodes_table,
    preflight,
    problems_of,
    refuse,
)
from cluster.session.start import _look_at_nodes, ray_session
from pipelines.errors import UserError
from pipelines.storage.store import Store
from tests.cluster.planning.test_estimate import a_run
from tests.support.object_store import Bucket

HERE = Look("head", "3.11.7", "2.60.0", "abc", 1000.0, "")


@pytest.mark.parametrize(
    ("changes", "skew_s", "seen", "problems"),
    [
        ({}, 0.0, True, []),
        ({"python": "3.11.9", "time_s": 1010.0}, 10.0, True, []),
        ({"ray": "2.59.0"}, 0.0, True, ["Ray 2.59.0, the driver has 2.60.0"]),
        ({"python": "3.12.1"}, 0.0, True, ["Python 3.12.1, the driver has 3.11.7"]),
        ({"code": "abd"}, 0.0, True, ["another version of Raystill"]),
        ({"storage": "cannot write to the output (full)"}, 0.0, False, ["cannot write to the output (full)"]),
        ({}, 0.0, False, ["what it writes to the output is not seen by the driver"]),
        ({}, -3600.0, True, ["its clock is -3600 s off"]),
    ],
)
def test_what_would_break_a_run_is_a_problem(
    changes: dict[str, object], skew_s: float, seen: bool, problems: list[str]
) -> None:
    assert problems_of(dataclasses.replace(HERE, **changes), HERE, skew_s, seen=seen) == problems  # type: ignore[arg-type]


def test_a_node_reads_what_the_driver_wrote_and_writes_beside_it(tmp_path: Path) -> None:
    shared = Store(str(tmp_path / "shared"))
    assert look_around(shared.uri, "token:n1").storage == "does not see the output that the driver writes to"
    shared.write("driver", b"another run's")
    assert look_around(shared.uri, "token:n1").storage == "does not see the output that the driver writes to"
    shared.write("driver", b"token")
    assert look_around(shared.uri, "token:n1").storage == ""
    assert shared.read("n1") == b"token"


def test_an_output_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    shared = Store(str(tmp_path / "shared"))
    shared.write("driver", b"token")
    (tmp_path / "shared" / "n1").mkdir()
    assert look_around(shared.uri, "token:n1").storage.startswith("cannot write to the output")


def test_an_output_that_can_be_written_is_left_as_it_is(tmp_path: Path) -> None:
    check_output(str(tmp_path / "runs" / "svamp"))
    check_output(f"file://{tmp_path}/runs/svamp")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "runs").mkdir()
    check_output(str(tmp_path / "runs"))
    assert [path.name for path in tmp_path.rglob("*")] == ["runs"]


def test_an_output_on_an_object_store_that_can_be_written_is_left_without_a_file(s3: Bucket) -> None:
    check_output(s3.uri("runs/svamp"))
    assert Store(s3.uri("runs")).files() == []
    missing = s3.uri("runs/svamp").replace(s3.name, "no-such-bucket")
    with pytest.raises(UserError, match="there is no such bucket"):
        check_output(missing)


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("FOLDER/file/runs", "Not a directory"),
        ("FOLDER/file", "Not a directory"),
        ("/proc/runs", ""),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_started(
    output: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(*_: object) -> None:
        raise AssertionError("it was started")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("cluster.session.start._start", started)
    (tmp_path / "file").touch()
    run = a_run().model_copy(update={"output": output.replace("FOLDER", str(tmp_path))})
    said = rf"output {run.output}: it cannot be written \(.*{why}.*\)\. Set output"
    with pytest.raises(UserError, match=said), ray_session(run, ["label"]):
        pass
    with pytest.raises(UserError, match=said):
        preflight(run.output)
    with pytest.raises(AssertionError, match="it was started"), ray_session(run, ["serve"]):
        pass
    with pytest.raises(AssertionError, match="it was started"), ray_session(run, []):
        pass


def test_nodes_with_problems_are_named_and_come_first() -> None:
    fine = NodeCheck("10.0.0.1 (aa)", 8.0, 0.0, HERE, 0.0, ())
    silent = NodeCheck("10.0.0.2 (bb)", 8.0, 1.0, None, 0.0, ("does not answer within 120 s",))
    refuse([fine])
    with pytest.raises(UserError, match=r"1 of 2 nodes: 10\.0\.0\.2 \(bb\): does not answer within 120 s"):
        refuse([fine, silent])
    console = Console(width=140, record=True, quiet=False)
    with console.capture() as shown:
        console.print(nodes_table([fine, silent]))
    text = shown.get()
    assert text.index("10.0.0.2") < text.index("10.0.0.1")


@pytest.mark.parametrize(
    ("count", "verbose", "bad", "table"),
    [
        (1, True, False, False),
        (2, False, False, True),
        (LISTED, False, False, True),
        (LISTED + 1, False, False, False),
        (LISTED + 1, True, False, True),
        (LISTED + 1, False, True, True),
    ],
)
def test_the_nodes_of_a_small_cluster_are_shown(
    count: int,
    verbose: bool,
    bad: bool,
    table: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    problems = ("its clock is +99 s off",) if bad else ()
    nodes = [NodeCheck(f"10.0.0.{number} (aa)", 8.0, 0.0, HERE, 0.0, problems) for number in range(count)]
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True}] * count)
    monkeypatch.setattr("cluster.session.autoscaling.autoscales", lambda: False)
    monkeypatch.setattr("cluster.session.start.preflight", lambda _: nodes)
    with pytest.raises(UserError, match="clock") if bad else contextlib.nullcontext():
        _look_at_nodes("out", verbose)
    shown = capsys.readouterr()
    assert ("10.0.0.0 (aa)" in shown.err) is table
    assert (f"{count} nodes answer: Ray 2.60.0" in shown.err) is (count > 1 and not bad)
    assert shown.out == "", "of --json"
