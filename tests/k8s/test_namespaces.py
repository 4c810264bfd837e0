"""Pods in namespaces, without Ray: address, user, files, SIGTERM, and their end with the process that started them."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.support.endpoints import wait_until
from tests.support.k8s.bash_pods import USER, pod, volumes
from tests.support.k8s.namespaces import Node, RunningPod, missing
from tests.support.k8s.rendering import ROOT

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))
SERVER = "python3 -m http.server 8080 --directory /data"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with Node(tmp_path / "pods", volumes(tmp_path), {"server.tests.svc": 2}) as started:
        yield started


def ended(running: RunningPod) -> bool:
    return running.process.poll() is not None


def test_a_pod_has_its_own_address_user_and_files(node: Node, tmp_path: Path) -> None:
    server, client = node.start(pod("server", SERVER), 2), node.start(pod("client", "sleep 600"), 3)
    wait_until(lambda: server.ready() and bool(client.first), 20.0)
    assert not client.ready(), "nothing listens in the client"
    assert client.run("wget", "-q", "-O-", "http://server.tests.svc:8080/a").stdout == "a file of the volume"
    script = "id -u; id -g; hostname; echo $WHO $KEY; ls /home; df --output=size -B1 /dev/shm | tail -1; cat /sys/fs/cgroup/memory.max"
    shown = client.run("bash", "-c", script).stdout.split()
    assert shown == [
        str(USER),
        str(USER),
        "client",
        "client",
        "secret",
        "ray",
        str(8 << 20),
        str(1 << 30),
    ]
    assert "No such file" in client.run("ls", str(tmp_path)).stderr
    assert "Read-only" in client.run("touch", "/data/b").stderr
    assert "Permission denied" in client.run("touch", "/usr/b").stderr
    assert "Operation not permitted" in client.run("ip", "link", "add", "x", "type", "dummy").stderr
    assert client.run("bash", "-c", "wget -T 2 -t 1 -q -O- http://1.1.1.1").returncode != 0


def test_a_failed_init_container_ends_the_pod(node: Node) -> None:
    for name, number, first, log in (
        ("good", 2, "echo first", "first\nsecond\n"),
        ("bad", 3, "echo first; exit 3", "first\n"),
    ):
        manifest = pod(name, "echo second")
        init = {"command": ["/bin/bash", "-c", "--"], "args": [first], "env": []}
        manifest["spec"]["initContainers"] = [init]
        running = node.start(manifest, number)
        wait_until(partial(ended, running), 20.0)
        assert running.tail() == log


def test_sigterm_needs_a_handler_in_process_1(node: Node) -> None:
    handles = node.start(pod("handles", "trap 'echo drained; exit 7' TERM; echo trapped; sleep 600 & wait"), 2)
    ignores = node.start(pod("ignores", "sleep 600"), 3)
    wait_until(lambda: bool(ignores.first) and handles.tail() == "trapped\n", 20.0)
    for running in (handles, ignores):
        running.terminate()
    assert handles.wait(10.0) == 7
    assert handles.tail() == "trapped\ndrained\n"
    with pytest.raises(subprocess.TimeoutExpired):
        ignores.wait(1.0)


STARTER = """
import sys, time
from contextlib import suppress
from functools import partial
from pathlib import Path
from tests.support.k8s.namespaces import Node
from tests.support.k8s.bash_pods import pod, volumes
folder = Path(sys.argv[1])
with Node(folder / "pods", volumes(folder), {}) as node:
    running, waiting = pod("p", "sleep 600 & sleep 600; true"), pod("q", "true")
    waiting["spec"]["initContainers"] = [{"command": ["/bin/bash", "-c", "--"], "args": ["sleep 600; true"], "env": []}]
    for number, manifest in enumerate((running, waiting), 2):
        node.start(manifest, number)
    print("started", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_no_pod_outlives_its_starter(tmp_path: Path, how: signal.Signals) -> None:
    command = [sys.executable, "-c", STARTER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as starter:
        try:
            assert starter.stdout
            assert starter.stdout.readline() == "started\n"
            family = psutil.Process(starter.pid)
            # Two in one pod, one in the other's init container, one that holds the network.
            wait_until(lambda: sleeping(family) == 4, 20.0)
            children = family.children(recursive=True)
        finally:
            starter.send_signal(how)
    assert psutil.wait_procs(children, timeout=20)[1] == []


def sleeping(family: psutil.Process) -> int:
    """The number of a process' descendants that are `sleep`."""
    found = 0
    for process in family.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            found += process.name() == "sleep"
    return found
