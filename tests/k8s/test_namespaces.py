"""Pods in namespaces, without Ray: their address, user and files, what SIGTERM does to them, and that none outlives its starter."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.support.endpoints import wait_until
from tests.support.k8s.namespaces import Node, RunningPod, missing
from tests.support.k8s.pod_files import Volumes
from tests.support.k8s.rendering import ROOT, Object

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))
USER = 1234
SERVER = "python3 -m http.server 8080 --directory /data"


def pod(name: str, script: str, **container: object) -> Object:
    """A pod that runs a line of bash."""
    mounts = [{"name": "shm", "mountPath": "/dev/shm"}, {"name": "data", "mountPath": "/data", "readOnly": True}]
    asked = {"httpGet": {"path": "/a", "port": 8080}, "timeoutSeconds": 2}
    env = [{"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
           {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "k"}}}]  # fmt: skip
    return {
        "metadata": {"name": name, "namespace": "tests", "labels": {}},
        "spec": {
            "terminationGracePeriodSeconds": 10,
            "securityContext": {"runAsUser": USER, "runAsGroup": USER, "fsGroup": USER},
            "containers": [{
                "command": ["/bin/bash", "-c", "--"], "args": [script], "env": env, "volumeMounts": mounts, "readinessProbe": asked,
                "resources": {"limits": {"memory": "1Gi"}}, **container,
            }],
            "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}},
                        {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
        },
    }  # fmt: skip


def volumes(folder: Path) -> Volumes:
    folder.joinpath("data").mkdir(exist_ok=True)
    folder.joinpath("data", "a").write_text("a file of the volume")
    return Volumes(claims={"data": folder / "data"}, secrets={"keys": {"k": "secret"}})


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with Node(tmp_path / "pods", volumes(tmp_path), {"server.tests.svc": 2}) as started:
        yield started


def ended(running: RunningPod) -> bool:
    return running.process.poll() is not None


def test_a_pod_has_an_address_a_user_and_files_of_its_own(node: Node, tmp_path: Path) -> None:
    server, client = node.start(pod("server", SERVER), 2), node.start(pod("client", "sleep 600"), 3)
    wait_until(lambda: server.ready() and bool(client.first), 20.0)
    assert not client.ready(), "nothing listens there"
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


def test_init_containers_come_first_and_end_the_pod_where_they_fail(node: Node) -> None:
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


def test_sigterm_reaches_a_process_1_that_has_a_handler_and_no_other(node: Node) -> None:
    handles = node.start(pod("handles", "trap 'echo drained; exit 7' TERM; sleep 600 & wait"), 2)
    ignores = node.start(pod("ignores", "sleep 600"), 3)
    wait_until(lambda: bool(handles.first and ignores.first), 20.0)
    time.sleep(0.5)  # bash sets its trap
    for running in (handles, ignores):
        running.terminate()
    assert handles.wait(10.0) == 7
    assert handles.tail() == "drained\n"
    with pytest.raises(subprocess.TimeoutExpired):
        ignores.wait(1.0)


STARTER = """
import sys, time
from contextlib import suppress
from functools import partial
from pathlib import Path
from tests.support.k8s.namespaces import Node
from tests.k8s.test_namespaces import pod, volumes
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
            # Two of one pod, the other's init container, and the network's.
            wait_until(lambda: sleeping(family) == 4, 20.0)
            children = family.children(recursive=True)
        finally:
            starter.send_signal(how)
    assert psutil.wait_procs(children, timeout=20)[1] == []


def sleeping(family: psutil.Process) -> int:
    """How many of a process' descendants are `sleep`."""
    found = 0
    for process in family.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            found += process.name() == "sleep"
    return found
