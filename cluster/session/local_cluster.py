"""`raystill up` and `down`: a Ray cluster of several nodes on this machine, each a raylet of its own, to try a run as on many machines.

What was started stands in CACHE/local-cluster.json: {"address", "dashboard", "folder", "nodes": [[pid, when it was started], ...]}.

Ray listens at the machine's own address (it takes 127.0.0.1 for a way to say that), where others may reach it: the cluster asks for a
token, which is made where there is none.
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
from pathlib import Path
from typing import Any

import click
import psutil

from cluster.environment import cache_folder, make_ray_token, wants_token
from cluster.session.connection import NoAnswerError, alive_nodes
from pipelines.errors import StageFailedError, UserError

_START_S = 90.0
_END_S = 30.0
_END_POLL_S = 0.1


def up(nodes: int, cpus: int) -> dict[str, Any]:
    """Start a cluster. Returns what `down` ends.

    Args:
        nodes: the head, which works too, and the others.
        cpus: of each node; logical: they share the machine's cores.

    Raises:
        UserError: one is there already.
        StageFailedError: a node does not start; what did is ended.
    """
    before = _recorded()
    if before and any(_alive(*node) for node in before["nodes"]):
        raise UserError(
            "raystill up", f"a cluster runs at {before['dashboard']}", "Use it, or end it: `raystill down`."
        )
    make_ray_token()
    # Sockets lie in it: their paths must be short.
    folder = tempfile.mkdtemp(prefix="rs-", dir="/tmp")
    port, dashboard = _free_port(), _free_port()
    state: dict[str, Any] = {
        "address": f"127.0.0.1:{port}",
        "dashboard": f"http://127.0.0.1:{dashboard}",
        "folder": folder,
        "nodes": [],
    }
    head = [
        "--head",
        f"--port={port}",
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={dashboard}",
        f"--temp-dir={folder}",
    ]
    try:
        for number in range(nodes):
            which = head if number == 0 else [f"--address={state['address']}"]
            log = Path(folder) / f"node-{number}.log"
            # Ray Train asks the API server whether its controller lives: that of port 8265 unless it is named, which may be another Ray's.
            own = {"RAY_API_SERVER_ADDRESS": state["dashboard"]}
            process = start_node([*which, f"--num-cpus={cpus}"], log, own)
            state["nodes"].append([process.pid, psutil.Process(process.pid).create_time()])
            _write(state)
            _wait(state, process, number + 1)
    except BaseException:
        down()
        raise
    return state


def down() -> bool:
    """End the cluster that `up` started. Returns whether there was one."""
    state = _recorded()
    if state is None:
        return False
    # The head last: nodes that lose it complain.
    for together in (state["nodes"][1:], state["nodes"][:1]):
        _end([psutil.Process(pid) for pid, started in together if _alive(pid, started)])
    shutil.rmtree(state["folder"], ignore_errors=True)
    _file().unlink(missing_ok=True)
    return True


def print_up(nodes: int, cpus: int, *, as_json: bool) -> None:
    """The command `up`."""
    state = up(nodes, cpus)
    if as_json:
        print(json.dumps(state, indent=2))
        return
    click.echo(f"{nodes} nodes with {cpus} CPUs each; dashboard and jobs: {state['dashboard']}")
    mode = "token" if wants_token() else "disabled"
    click.echo(f"export RAY_ADDRESS={state['address']} RAY_AUTH_MODE={mode}    # the commands in this shell use it")
    if mode == "disabled":
        click.echo(
            "RAY_AUTH_MODE is disabled: whoever reaches this machine can run code on the cluster. Unset it to have a token."
        )
    click.echo("`raystill down` ends it.")


def start_node(arguments: list[str], log: Path, variables: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """A node of a cluster, in a session of its own: what `ray start --block` starts ends with it.

    Args:
        arguments: of `ray start`.
        variables: what its environment has besides this process'.
    """
    # Ports that Ray has one number for on every machine; here the machine has several nodes.
    ports = [
        f"--{name}={_free_port()}"
        for name in ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port")
    ]
    command = [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--block",
        "--disable-usage-stats",
        *arguments,
        *ports,
    ]
    others = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_TMPDIR")
    environment = {key: value for key, value in os.environ.items() if key not in others}
    # Jobs say `python` and mean this one.
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment |= variables or {}
    environment.setdefault("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "1")  # there is nowhere to drain to
    with log.open("wb") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)


def _wait(state: dict[str, Any], process: subprocess.Popen[bytes], wanted: int) -> None:
    """Until so many nodes are alive. Raises StageFailedError with the last lines of the node's log."""
    until = time.monotonic() + _START_S
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(NoAnswerError):  # the head's dashboard comes up last
            if len(alive_nodes(state["dashboard"])) >= wanted:
                return
        time.sleep(0.5)
    log = Path(state["folder"]) / f"node-{wanted - 1}.log"
    raise StageFailedError(
        f"node {wanted} of the cluster does not start:\n{log.read_text(encoding='utf-8', errors='replace')[-2000:]}"
    )


def _end(nodes: Sequence[psutil.Process]) -> None:
    """SIGTERM to each `ray start`, which ends what it started; what is left is killed."""
    families = list[psutil.Process]()
    for node in nodes:
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            families += [node, *node.children(recursive=True)]
            node.terminate()
    until = time.monotonic() + _END_S
    while (left := [process for process in families if _runs(process)]) and time.monotonic() < until:
        time.sleep(_END_POLL_S)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _runs(process: psutil.Process) -> bool:
    """Whether it has not ended. One that has may be listed for long: its parent is gone, and not every process 1 asks for its exit code."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _alive(pid: int, started: float) -> bool:
    """Whether the process is the one that was started: ids come again."""
    try:
        return bool(psutil.Process(pid).create_time() == started)
    except psutil.NoSuchProcess:
        return False


def _file() -> Path:
    return cache_folder() / "local-cluster.json"


def _recorded() -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(_file().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return found


def _write(state: dict[str, Any]) -> None:
    file = _file()
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(state), encoding="utf-8")
    os.replace(temporary, file)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
