"""What is checked on the nodes of a cluster, and what is refused."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cluster.session.preflight import LISTED, NodeCheck, NodeReport, find_problems, nodes_table, refuse, report_node
from cluster.session.start import _check_nodes
from pipelines.errors import UserError
from pipelines.storage.store import Store

DRIVER = NodeReport("head", "3.11.7", "2.60.0", "abc", 1000.0, "")


@pytest.mark.parametrize(
    ("changes", "skew_s", "visible", "problems"),
    [
        ({}, 0.0, True, []),
        ({"python": "3.11.9", "time_s": 1010.0}, 10.0, True, []),
        ({"ray": "2.59.0"}, 0.0, True, ["Ray 2.59.0, the driver has 2.60.0"]),
        ({"python": "3.12.1"}, 0.0, True, ["Python 3.12.1, the driver has 3.11.7"]),
        ({"code": "abd"}, 0.0, True, ["another version of Raystill"]),
        ({"storage": "cannot write to the output (full)"}, 0.0, False, ["cannot write to the output (full)"]),
        ({}, 0.0, False, ["the driver does not see what it writes to the output"]),
        ({}, -3600.0, True, ["its clock is -3600 s off"]),
    ],
)
def test_differences_that_break_a_run_are_problems(changes: Any, skew_s: float, visible: bool, problems: Any) -> None:
    node = dataclasses.replace(DRIVER, **changes)  # type: ignore[arg-type]
    assert find_problems(node, DRIVER, skew_s, write_visible=visible) == problems


def test_a_node_reads_the_drivers_file_and_writes_its_own(tmp_path: Path) -> None:
    probe = Store(str(tmp_path / "probe"))
    unseen = "does not see the output that the driver writes to"
    assert report_node(probe.uri, "n1", "token").storage == unseen
    probe.write("driver", b"another run's")
    assert report_node(probe.uri, "n1", "token").storage == unseen
    probe.write("driver", b"token")
    assert report_node(probe.uri, "n1", "token").storage == ""
    assert probe.read("n1") == b"token"
    (tmp_path / "probe" / "n2").mkdir()
    assert report_node(probe.uri, "n2", "token").storage.startswith("cannot write to the output")


def test_nodes_with_problems_are_refused_and_listed_first() -> None:
    fine = NodeCheck("10.0.0.1 (aa)", 8.0, 0.0, DRIVER, 0.0, ())
    silent = NodeCheck("10.0.0.2 (bb)", 8.0, 1.0, None, 0.0, ("does not answer within 2 min 00 s",))
    refuse([fine])
    with pytest.raises(UserError, match=r"1 of 2 nodes: 10\.0\.0\.2 \(bb\): does not answer within 2 min 00 s"):
        refuse([fine, silent])
    console = Console(width=140)
    with console.capture() as shown:
        console.print(nodes_table([fine, silent]))
    assert shown.get().index("10.0.0.2") < shown.get().index("10.0.0.1")


@pytest.mark.parametrize(
    ("count", "verbose", "faulty", "table"),
    [
        (1, True, False, False), (LISTED, False, False, True), (LISTED + 1, False, False, False),
        (LISTED + 1, True, False, True), (LISTED + 1, False, True, True),
    ],
)  # fmt: skip
def test_the_nodes_of_a_small_cluster_are_printed(
    count: int, verbose: bool, faulty: bool, table: bool, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    problems = ("its clock is +99 s off",) if faulty else ()
    nodes = [NodeCheck(f"10.0.0.{number} (aa)", 8.0, 0.0, DRIVER, 0.0, problems) for number in range(count)]
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True}] * count)
    monkeypatch.setattr("cluster.session.start.inspect_nodes", lambda _: nodes)
    with pytest.raises(UserError, match="clock") if faulty else contextlib.nullcontext():
        _check_nodes("out", verbose)
    shown = capsys.readouterr()
    assert ("10.0.0.0 (aa)" in shown.err) is table
    assert (f"{count} nodes checked: Ray 2.60.0" in shown.err) is (count > 1 and not faulty)
    assert shown.out == "", "--json prints there"
