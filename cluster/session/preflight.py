"""Check the nodes of a cluster before a run: versions, code, clock, and access to the output. One task per node reports it."""

from __future__ import annotations

import platform
import socket
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster.code_version import code_hash
from cluster.session.output_check import DRIVER_FILE, write_probe
from pipelines.errors import UserError, last_line
from pipelines.runtime.durations import duration
from pipelines.storage.store import Store

if TYPE_CHECKING:
    from rich.table import Table

_ANSWER_S = 120.0
_MAX_SKEW_S = 30.0
LISTED = 20
"""Most nodes in a table or a message."""


@dataclass(frozen=True)
class NodeReport:
    """What a process on a node reports."""

    host: str
    python: str
    ray: str
    code: str
    """Hash of Raystill's sources."""
    time_s: float
    """Since 1970."""
    storage: str
    """Why the node cannot use the output; empty if it can."""


@dataclass(frozen=True)
class NodeCheck:
    """One node and its problems."""

    name: str
    cpus: float
    gpus: float
    report: NodeReport | None
    """None: the node did not answer."""
    skew_s: float
    """Its clock less the driver's, as far as the time of the request cannot explain it."""
    problems: tuple[str, ...]


def inspect_nodes(output: str | None) -> list[NodeCheck]:
    """Check every live node with one task on it.

    Args:
        output: path or URI of the run's output; None: do not check it.

    Raises:
        UserError: the driver cannot write the output.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    token = uuid.uuid4().hex
    probe = write_probe(output, token.encode()) if output is not None else None
    driver = report_node("", "", token)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    remote = ray.remote(num_cpus=0, max_retries=0)(report_node)
    sent_s = time.time()
    pending = {
        node["NodeID"]: remote.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(probe.uri if probe else "", node["NodeID"], token)
        for node in nodes
    }  # fmt: skip
    try:
        ray.wait(list(pending.values()), num_returns=len(pending), timeout=_ANSWER_S)
        reports = {node: _result(reference) for node, reference in pending.items()}
        received_s = time.time()
        # An autoscaler may have removed an idle node meanwhile: it takes no part in the run.
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        return [
            _check(node, reports[node["NodeID"]], driver, probe, token, (sent_s, received_s))
            for node in nodes
            if node["NodeID"] in alive
        ]
    finally:
        if probe:
            probe.clear()


def report_node(probe: str, node: str, token: str) -> NodeReport:
    """Report this process' node. Reads the driver's file in the output and writes one beside it.

    Args:
        probe: URI of the probe's folder; empty: do not check the output.
        node: name of the file to write.
        token: content of both files.
    """
    import ray

    return NodeReport(
        socket.gethostname(), platform.python_version(), ray.__version__, code_hash(), time.time(),
        _storage_problem(probe, node, token) if probe else "",
    )  # fmt: skip


def find_problems(node: NodeReport, driver: NodeReport, skew_s: float, *, write_visible: bool) -> list[str]:
    """Differences that would break a run. `write_visible`: the driver reads what the node wrote."""
    problems = []
    if node.ray != driver.ray:
        problems.append(f"Ray {node.ray}, the driver has {driver.ray}")
    if node.python.split(".")[:2] != driver.python.split(".")[:2]:
        problems.append(f"Python {node.python}, the driver has {driver.python}")
    if node.code != driver.code:
        problems.append("another version of Raystill")
    if node.storage:
        problems.append(node.storage)
    elif not write_visible:
        problems.append("the driver does not see what it writes to the output")
    if abs(skew_s) > _MAX_SKEW_S:
        problems.append(f"its clock is {skew_s:+.0f} s off")
    return problems


def refuse(nodes: Sequence[NodeCheck]) -> None:
    """Raise UserError if a node has a problem."""
    faulty = [node for node in nodes if node.problems]
    if faulty:
        listed = "; ".join(f"{node.name}: {', '.join(node.problems)}" for node in faulty[:LISTED])
        more = f"; and {len(faulty) - LISTED:,} more" if len(faulty) > LISTED else ""
        remedy = "Give all nodes the same image, and an output that all of them see (s3://..., or mounted storage)."
        raise UserError(f"{len(faulty):,} of {len(nodes):,} nodes", f"{listed}{more}", remedy)


def nodes_table(nodes: Sequence[NodeCheck]) -> Table:
    """The nodes for the terminal, those with problems first."""
    from rich.table import Table

    table = Table(title=f"{len(nodes):,} nodes", title_justify="left", pad_edge=False)
    for column in ("node", "host", "CPUs", "GPUs", "Ray", "Python", "clock", "problems"):
        table.add_column(column, justify="right" if column in ("CPUs", "GPUs", "clock") else "left", overflow="fold")
    for node in sorted(nodes, key=lambda node: not node.problems)[:LISTED]:
        host, ray, python = (node.report.host, node.report.ray, node.report.python) if node.report else ("", "", "")
        size, problems = (f"{node.cpus:g}", f"{node.gpus:g}"), ", ".join(node.problems) or "-"
        table.add_row(node.name, host, *size, ray, python, f"{node.skew_s:+.1f} s", problems)
    return table


def _check(
    node: dict[str, Any], report: NodeReport | str, driver: NodeReport, probe: Store | None, token: str,
    window: tuple[float, float],
) -> NodeCheck:  # fmt: skip
    """`node`: as `ray.nodes()` lists it. `window`: when the request was sent and its result received."""
    name = f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})"
    size = node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0)
    if isinstance(report, str):
        return NodeCheck(name, *size, None, 0.0, (report,))
    # The node read its clock between the two times.
    skew_s = min(report.time_s - window[0], 0.0) + max(report.time_s - window[1], 0.0)
    visible = not probe or bool(report.storage) or _holds(probe, node["NodeID"], token)
    return NodeCheck(name, *size, report, skew_s, tuple(find_problems(report, driver, skew_s, write_visible=visible)))


def _result(reference: Any) -> NodeReport | str:
    """A node's report, or why it is missing."""
    import ray

    try:
        report: NodeReport = ray.get(reference, timeout=0)
        return report
    except ray.exceptions.GetTimeoutError:
        return f"does not answer within {duration(_ANSWER_S)}"
    except ray.exceptions.RayError as error:
        return f"cannot run Raystill's code ({type(error).__name__}: {last_line(error)})"


def _storage_problem(probe: str, node: str, token: str) -> str:
    try:
        store = Store(probe)
        if not _holds(store, DRIVER_FILE, token):
            return "does not see the output that the driver writes to"
        store.write(node, token.encode())
    except (OSError, UserError) as error:
        return f"cannot write to the output ({last_line(error)})"
    return ""


def _holds(store: Store, name: str, content: str) -> bool:
    return store.exists(name) and store.read(name).decode() == content
