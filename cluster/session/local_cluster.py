"""`raystill up` and `down`: a Ray cluster of several nodes on this machine, to try a run as on many machines.

CACHE/local-cluster.json records it: {"address", "dashboard", "folder", "nodes": [[pid, start time of the process], ...]}.

Ray listens at the machine's own address, even if it is given 127.0.0.1. Others may reach it there, so the cluster asks for a token.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
import psutil

from cluster.environment import SERVE_EDGE, make_ray_token, wants_token
from cluster.session.command_log import new_log
from cluster.session.connection import UnreachableError, alive_nodes
from cluster.session.ending import end_processes
from pipelines.errors import StageFailedError, UserError, last_line
from pipelines.runtime.compat.ray import start_command
from pipelines.storage.cache_folder import cache_folder

_START_S = 150.0
_SLOW_START = "timed out during startup"
"""In the log of a node that Ray gave up: it allows a node 30 s, which a busy machine may exceed."""
_END_S = 30.0
_POLL_S = 0.5
_PORTS = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port")
"""Ports with the same default on every machine; this machine has several nodes."""
_OTHER_CLUSTER = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_TMPDIR")


@dataclass
class LocalCluster:
    """A cluster of this machine, as it is recorded."""

    address: str
    """For RAY_ADDRESS."""
    dashboard: str
    """URL; jobs are submitted to it."""
    folder: str
    nodes: list[tuple[int, float]] = field(default_factory=list)
    """Process id and start time of each node's `ray start`, the head first."""


def up(nodes: int, cpus: int) -> LocalCluster:
    """Start a cluster.

    Args:
        nodes: with the head, which also runs tasks.
        cpus: logical CPUs per node; the nodes share the machine's cores.

    Raises:
        UserError: a cluster runs already.
        StageFailedError: a node did not start; the others have been stopped.
    """
    before = _recorded()
    if before and any(_alive(*node) for node in before.nodes):
        remedy = "Use it, or stop it: `raystill down`."
        raise UserError("raystill up", f"a cluster runs at {before.dashboard}", remedy)
    make_ray_token()
    folder = tempfile.mkdtemp(prefix="rs-", dir="/tmp")  # sockets lie in it: their paths must be short
    port, dashboard = _free_port(), _free_port()
    cluster = LocalCluster(f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}", folder)
    head = [
        "--head",
        f"--port={port}",
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={dashboard}",
        f"--temp-dir={folder}",
    ]
    # Ray Train asks an API server whether its controller lives. The default, port 8265, may belong to another Ray.
    variables = {"RAY_API_SERVER_ADDRESS": cluster.dashboard}
    try:
        for number in range(nodes):
            role = head if number == 0 else [f"--address={cluster.address}"]
            _start_joined(cluster, [*role, f"--num-cpus={cpus}"], variables)
    except BaseException:
        down()
        raise
    return cluster


def down() -> bool:
    """Stop the recorded cluster. Returns False if no cluster is recorded."""
    cluster = _recorded()
    if cluster is None:
        return False
    # The head last: nodes without a head log errors.
    for group in (cluster.nodes[1:], cluster.nodes[:1]):
        _end([psutil.Process(pid) for pid, started in group if _alive(pid, started)])
    shutil.rmtree(cluster.folder, ignore_errors=True)
    _file().unlink(missing_ok=True)
    return True


def print_up(nodes: int, cpus: int, *, as_json: bool) -> None:
    """The command `raystill up`."""
    cluster = up(nodes, cpus)
    if as_json:
        print(json.dumps(asdict(cluster), indent=2))
        return
    click.echo(f"{nodes} nodes with {cpus} CPUs each; dashboard and jobs: {cluster.dashboard}")
    mode = "token" if wants_token() else "disabled"
    click.echo(f"export RAY_ADDRESS={cluster.address} RAY_AUTH_MODE={mode}    # for the commands of this shell")
    if mode == "disabled":
        click.echo(
            "RAY_AUTH_MODE is disabled: anyone who reaches this machine can run code on the cluster. Unset it to use a token."
        )
    click.echo("Stop it with `raystill down`.")


def start_node(arguments: Sequence[str], log: Path, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start `ray start --block` in its own session. Its processes end with it.

    Args:
        arguments: more arguments of `ray start`.
        variables: added to this process' environment.
    """
    ports = [f"--{name}={_free_port()}" for name in _PORTS]
    command = [*start_command(), "--block", "--disable-usage-stats", *arguments, *ports]
    environment = {key: value for key, value in os.environ.items() if key not in _OTHER_CLUSTER}
    # Jobs start `python`, which must be this one.
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment |= {**SERVE_EDGE, **variables}
    environment.setdefault("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "1")  # no other node takes over the work
    with log.open("wb") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)


def _start_joined(cluster: LocalCluster, arguments: Sequence[str], variables: Mapping[str, str]) -> None:
    """Start the cluster's next node and wait until it has joined. A node that Ray gave up too early is started again.

    Raises:
        StageFailedError: it ended, or has not joined in time. Names the cause by the last line of its log.
    """
    number = len(cluster.nodes)
    log, until = Path(cluster.folder) / f"node-{number}.log", time.monotonic() + _START_S
    while True:
        process = start_node(arguments, log, variables)
        cluster.nodes.append((process.pid, psutil.Process(process.pid).create_time()))
        _record(cluster)
        if _joins(cluster, process, number + 1, until):
            return
        text = log.read_text(encoding="utf-8", errors="replace")
        if _SLOW_START not in text or time.monotonic() >= until:
            cause = last_line(text) if text.strip() else f"no answer in {_START_S:.0f} s"
            kept = new_log("up")  # the cluster's folder is removed
            shutil.copyfile(log, kept)
            remedy = f"Its log is {kept}. If the machine is busy, run `raystill up` again later, or with fewer nodes."
            raise StageFailedError(f"node {number + 1} of the cluster does not start ({cause}). {remedy}")
        cluster.nodes.pop()


def _joins(cluster: LocalCluster, process: subprocess.Popen[bytes], count: int, until: float) -> bool:
    """Wait until `count` nodes are alive. False if the process ends first, or at `until`."""
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(UnreachableError):  # the head's dashboard starts last
            if len(alive_nodes(cluster.dashboard)) >= count:
                return True
        time.sleep(_POLL_S)
    return False


def _end(nodes: Sequence[psutil.Process]) -> None:
    """Send SIGTERM to each `ray start`, which ends its processes; kill what remains."""
    family: list[psutil.Process] = []
    for node in nodes:
        with contextlib.suppress(psutil.NoSuchProcess):
            family += [node, *node.children(recursive=True)]
            node.terminate()
    end_processes(family, _END_S)


def _alive(pid: int, started: float) -> bool:
    """True if the process id still belongs to the process that was started then."""
    try:
        return bool(psutil.Process(pid).create_time() == started)
    except psutil.NoSuchProcess:
        return False


def _file() -> Path:
    return cache_folder() / "local-cluster.json"


def _recorded() -> LocalCluster | None:
    try:
        return LocalCluster(**json.loads(_file().read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def _record(cluster: LocalCluster) -> None:
    file = _file()
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(asdict(cluster)), encoding="utf-8")
    os.replace(temporary, file)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
