"""Before a run: can its output be written? And on a cluster of several nodes: does every node have the same versions and code, see the
output, and know the time?

The latter is found out on the nodes themselves, a task on each. One table tells of all of them; what would break the run is refused
before it begins.
"""

from __future__ import annotations

import platform
import socket
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.code_version import code_hash
from pipelines.errors import UserError, last_line

if TYPE_CHECKING:
    from rich.table import Table

    from pipelines.storage.store import Store

_ANSWER_S = 120.0
_SKEW_S = 30.0
_FOLDER = ".preflight"
LISTED = 20
"""Nodes that a table or a message names."""


@dataclass(frozen=True)
class Look:
    """What a process sees on its node."""

    host: str
    python: str
    ray: str
    code: str
    """Hash of our packages' sources."""
    time_s: float
    """Since 1970."""
    storage: str
    """Why the output cannot be used; empty where it can."""


@dataclass(frozen=True)
class NodeCheck:
    """One node, and what is wrong with it."""

    name: str
    cpus: float
    gpus: float
    look: Look | None
    """None: it did not answer."""
    skew_s: float
    """Its clock less ours, in seconds, beyond what the way there and back can explain."""
    problems: tuple[str, ...]


def check_output(output: str) -> None:
    """Raises UserError where the output, a path or URI, cannot be written from here. Leaves no file behind, and makes no local folder."""
    from pipelines.storage.store import Store

    store = Store(output)
    with _writing(store):
        if store.is_local:
            there = next(folder for folder in (Path(store.root), *Path(store.root).parents) if folder.exists())
            tempfile.TemporaryFile(dir=there).close()
        else:
            probe = _probe(store)
            probe.write("driver", b"")
            probe.clear()


def preflight(output: str | None) -> list[NodeCheck]:
    """Look at every node that is alive, and stays. Starts nothing but a task on each.

    Args:
        output: the run's output, path or URI; None: nothing is written to it, and no node is asked about it.

    Raises:
        UserError: the output cannot be written from here.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    token = uuid.uuid4().hex
    shared = _written(output, token) if output is not None else None
    here = look_around("", "")
    nodes = [node for node in ray.nodes() if node["Alive"]]
    remote = ray.remote(num_cpus=0, max_retries=0)(look_around)
    sent = time.time()
    asked = {
        node["NodeID"]: remote.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(shared.uri if shared else "", f"{token}:{node['NodeID']}")
        for node in nodes
    }  # fmt: skip
    try:
        ray.wait(list(asked.values()), num_returns=len(asked), timeout=_ANSWER_S)
        answers, until = {node: _answer(asked[node]) for node in asked}, time.time()
        # A node that has gone meanwhile (an autoscaler removes idle ones) takes no part in the run.
        stay = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        return [
            _checked(node, answers[node["NodeID"]], here, shared, token, (sent, until))
            for node in nodes
            if node["NodeID"] in stay
        ]
    finally:
        if shared:
            shared.clear()


def look_around(shared: str, token: str) -> Look:
    """Run on a node: what it is, and whether it reads what the driver wrote and can write beside it.

    Args:
        shared: the folder in the output; empty: the storage is not looked at.
        token: `DRIVER'S:NODE`.
    """
    import ray

    return Look(
        socket.gethostname(), platform.python_version(), ray.__version__, code_hash(), time.time(),
        _storage(shared, token) if shared else "",
    )  # fmt: skip


def problems_of(found: Look, here: Look, skew_s: float, *, seen: bool) -> list[str]:
    """What would break a run on a node. `seen`: the driver reads what the node wrote."""
    problems = []
    if found.ray != here.ray:
        problems.append(f"Ray {found.ray}, the driver has {here.ray}")
    if found.python.split(".")[:2] != here.python.split(".")[:2]:
        problems.append(f"Python {found.python}, the driver has {here.python}")
    if found.code != here.code:
        problems.append("another version of Raystill")
    if found.storage:
        problems.append(found.storage)
    elif not seen:
        problems.append("what it writes to the output is not seen by the driver")
    if abs(skew_s) > _SKEW_S:
        problems.append(f"its clock is {skew_s:+.0f} s off")
    return problems


def refuse(nodes: Sequence[NodeCheck]) -> None:
    """Raises UserError, which names each node with a problem, where there is any."""
    bad = [node for node in nodes if node.problems]
    if bad:
        told = "; ".join(f"{node.name}: {', '.join(node.problems)}" for node in bad[:LISTED])
        more = f"; and {len(bad) - LISTED:,} more" if len(bad) > LISTED else ""
        remedy = (
            "Give all nodes the same image, and an output that all of them see (s3://..., or storage that they mount)."
        )
        raise UserError(f"{len(bad):,} of {len(nodes):,} nodes", f"{told}{more}", remedy)


def nodes_table(nodes: Sequence[NodeCheck]) -> Table:
    """The nodes for the terminal, those with problems first."""
    from rich.table import Table

    table = Table(title=f"{len(nodes):,} nodes", title_justify="left", pad_edge=False)
    for column in ("node", "host", "CPUs", "GPUs", "Ray", "Python", "clock", "what is wrong"):
        table.add_column(column, justify="right" if column in ("CPUs", "GPUs", "clock") else "left", overflow="fold")
    for node in sorted(nodes, key=lambda node: not node.problems)[:LISTED]:
        seen = (node.look.host, node.look.ray, node.look.python) if node.look else ("", "", "")
        table.add_row(
            node.name,
            seen[0],
            f"{node.cpus:g}",
            f"{node.gpus:g}",
            seen[1],
            seen[2],
            f"{node.skew_s:+.1f} s",
            ", ".join(node.problems) or "-",
        )
    return table


def _checked(
    node: dict[str, Any], look: Look | str, here: Look, shared: Store | None, token: str, between: tuple[float, float]
) -> NodeCheck:
    resources = node["Resources"]
    name = f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})"
    size = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    if isinstance(look, str):
        return NodeCheck(name, *size, None, 0.0, (look,))
    # Between sending and receiving its clock should have read something between ours.
    skew = min(look.time_s - between[0], 0.0) + max(look.time_s - between[1], 0.0)
    seen = not shared or bool(look.storage) or _reads(shared, node["NodeID"], token)
    return NodeCheck(name, *size, look, skew, tuple(problems_of(look, here, skew, seen=seen)))


def _probe(output: Store) -> Store:
    """A folder in the output that nobody else has, to be removed again."""
    return output.child(f"{_FOLDER}-{uuid.uuid4().hex[:8]}")


def _written(output: str, token: str) -> Store:
    """A probe with the driver's file in it. Raises UserError where that cannot be written."""
    from pipelines.storage.store import Store

    store = Store(output)
    probe = _probe(store)
    with _writing(store):
        probe.write("driver", token.encode())
    return probe


def _reads(shared: Store, name: str, token: str) -> bool:
    return shared.exists(name) and shared.read(name).decode() == token


@contextmanager
def _writing(output: Store) -> Iterator[None]:
    """Turns what stands in the way of writing into the output into a UserError."""
    try:
        yield
    except OSError as error:
        remedy = "Set output to a folder, or a URI, that this user may write to."
        raise UserError(f"output {output.shown()}", f"it cannot be written ({last_line(error)})", remedy) from error


def _answer(reference: Any) -> Look | str:
    """What a node told, or why it did not."""
    import ray

    try:
        found: Look = ray.get(reference, timeout=0)
        return found
    except ray.exceptions.GetTimeoutError:
        return f"does not answer within {_ANSWER_S:.0f} s"
    except ray.exceptions.RayError as error:
        return f"cannot run our code ({type(error).__name__}: {str(error).strip().splitlines()[-1]})"


def _storage(shared: str, token: str) -> str:
    from pipelines.storage.store import Store

    store = Store(shared)
    drivers, _, node = token.partition(":")
    try:
        if not store.exists("driver") or store.read("driver").decode() != drivers:
            return "does not see the output that the driver writes to"
        store.write(node, drivers.encode())
    except (OSError, UserError) as error:
        return f"cannot write to the output ({error})"
    return ""
