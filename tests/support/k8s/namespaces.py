"""Pods on this machine without Kubernetes: what a kubelet does with a Pod, in namespaces that only root may make.

    with Node(folder, volumes, hosts={"head-svc": 2}) as node:       # a network with a bridge
        head = node.start(pod, number=2)                             # an address, a hostname, a file system and process ids of its own
        head.ready()                                                 # its readiness probe, once
        head.terminate()                                             # SIGTERM to its process 1, as a deletion sends it

A pod sees this machine's system, this checkout and its Python environment in place of an image, its volumes at their paths, and nothing
of /tmp, /root or /home. It runs as the user that it asks for, without capabilities. Not as on a cluster: no limits of memory and CPUs, no
seccomp filter, no rules of the network. All processes end with this one.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support import network
from tests.support.k8s.pod_files import Volumes, image_environment, mounts
from tests.support.k8s.rendering import Object

_DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL")


def missing() -> str | None:
    """Why pods cannot be started here; None: they can."""
    if why := network.missing():
        return why
    if shutil.which("wget") is None:
        return "wget, which probes call, is not installed"
    trial = [
        "--net",
        "--uts",
        "--ipc",
        "--mount",
        "--pid",
        "--fork",
        "--mount-proc",
        "mount",
        "-t",
        "tmpfs",
        "none",
        "/mnt",
    ]
    done = subprocess.run(["unshare", *trial], capture_output=True, text=True, check=False)
    return f"namespaces cannot be made here: {done.stderr.strip()}" if done.returncode else None


@dataclass
class RunningPod:
    """A pod that was started."""

    name: str
    address: str
    manifest: Object
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes]
    log: Path
    node: Node
    terminating: bool = False

    @property
    def first(self) -> int:
        """The id of its process 1, as this machine has it. 0 while its init containers run."""
        return next((pid for pid in _children(self.process.pid) if _innermost_id(pid) == 1), 0)

    @property
    def grace_s(self) -> float:
        """From SIGTERM to SIGKILL."""
        return float(self.manifest["spec"]["terminationGracePeriodSeconds"])

    def ready(self) -> bool:
        """Its readiness probe, once, as the kubelet would ask."""
        return self.probe("readinessProbe")

    def probe(self, name: str) -> bool:
        """One of its probes, once: httpGet from the node, exec in the container."""
        probe = self.manifest["spec"]["containers"][0][name]
        if not self.first:
            return False
        if "exec" in probe:
            with suppress(subprocess.TimeoutExpired):
                return self.run(*probe["exec"]["command"], timeout=probe["timeoutSeconds"]).returncode == 0
            return False
        asked = probe["httpGet"]
        with self.node.entered(), suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            url = f"http://{self.address}:{asked['port']}{asked['path']}"
            with urllib.request.urlopen(url, timeout=probe["timeoutSeconds"]) as response:
                return bool(200 <= response.status < 400)
        return False

    def run(self, *command: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """A command in its container, as `kubectl exec` runs it."""
        inside = ["nsenter", f"--target={self.first}", "--all", "--root", "--wd", *_as_user(self.manifest["spec"])]
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        return subprocess.run(
            [*inside, "env", "-i", *variables, *command], capture_output=True, text=True, check=False, timeout=timeout
        )

    def terminate(self) -> None:
        """SIGTERM to process 1, as the deletion of a pod sends it. The kernel drops it where process 1 has no handler."""
        self.terminating = True
        os.kill(self.first, signal.SIGTERM)

    def wait(self, seconds: float) -> int:
        """Until it has ended. Returns process 1's exit code. Raises subprocess.TimeoutExpired."""
        return self.process.wait(seconds)

    def kill(self) -> None:
        """End it at once, with all that it started: the kernel ends all processes of a namespace with its first."""
        self.process.kill()
        self.process.wait()

    def tail(self, characters: int = 4000) -> str:
        """The end of its log."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-characters:]


class Node:
    """A network of pods. All of them end with the block."""

    def __init__(self, folder: Path, volumes: Volumes, hosts: Mapping[str, int]) -> None:
        """
        Args:
            folder: for volumes and logs.
            hosts: names that pods resolve, such as services -> the number of a pod.
        """
        self._folder, self._volumes, self._hosts = folder, volumes, dict(hosts)
        self._network = network.Network(0)
        self.pods: list[RunningPod] = []

    def __enter__(self) -> Node:
        self._network.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        for pod in self.pods:
            pod.kill()
        self._network.__exit__()

    def entered(self) -> AbstractContextManager[None]:
        """This thread in the pods' network: sockets that it opens, and processes that it starts, stay there."""
        return self._network.lan.entered()

    def address(self, number: int) -> str:
        """Of a pod."""
        return f"{self._network.lan.address.rpartition('.')[0]}.{number}"

    def start(self, manifest: Object, number: int) -> RunningPod:
        """Start a pod at address `number` (2 to 254) of the network. Its init containers come first."""
        name, address = str(manifest["metadata"]["name"]), self.address(number)
        folder = self._folder / name
        folder.mkdir(parents=True)
        places = {who: self.address(where) for who, where in self._hosts.items()}
        short = {who.partition(".")[0]: where for who, where in places.items()}
        hosts = {"localhost": "127.0.0.1", name: address, **places, **short}
        environment = self._environment(manifest, manifest["spec"]["containers"][0])
        script = "\n".join(
            [
                "set -eu",
                *self._cable(number, name),
                *mounts(folder, manifest, self._volumes, hosts),
                *self._containers(folder, manifest),
            ]
        )
        outside = [*_DIES_WITH_US, "unshare", "--net", "--uts", "--ipc", "--mount", "bash", "-c", script]
        log = folder / "log"
        with log.open("wb") as output:
            # Not in our group of processes: a signal to all of it is not one to a pod.
            process = subprocess.Popen(
                outside, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=folder, start_new_session=True
            )
        pod = RunningPod(name, address, manifest, environment, process, log, self)
        self.pods.append(pod)
        return pod

    def _cable(self, number: int, name: str) -> Iterator[str]:
        lan, gateway = self._network.lan.process.pid, self._network.lan.address
        yield "ip link set lo up"
        yield f"ip link add eth0 type veth peer name port{number} netns {lan}"
        yield f"nsenter --net=/proc/{lan}/ns/net ip link set port{number} master lan up"
        yield f"ip address add {self.address(number)}/24 dev eth0 && ip link set eth0 up"
        yield f"ip route add default via {gateway}"  # Ray takes for its address the one that it would ask the world from
        yield f"hostname {shlex.quote(name)}"

    def _containers(self, folder: Path, manifest: Object) -> Iterator[str]:
        """The init containers one after the other, and the first container in place of this script."""
        spec = manifest["spec"]
        alone = ["unshare", "--pid", "--fork", "--kill-child=KILL", f"--root={folder / 'root'}", "--wd=/home/ray"]
        for container, before in [*((c, "") for c in spec.get("initContainers", [])), (spec["containers"][0], "exec ")]:
            variables = [f"{name}={value}" for name, value in self._environment(manifest, container).items()]
            command = [*container["command"], *container["args"]]
            isolated = [*_DIES_WITH_US, *alone, "--mount-proc"]
            yield before + shlex.join([*isolated, *_as_user(spec), "env", "-i", *variables, *command])

    def _environment(self, manifest: Object, container: Object) -> dict[str, str]:
        """The image's variables and the container's, fields and secrets looked up."""
        metadata = manifest["metadata"]
        found = image_environment()
        for entry in container.get("env", []):
            source = entry.get("valueFrom", {})
            if path := source.get("fieldRef", {}).get("fieldPath"):
                label = re.fullmatch(r"metadata\.labels\['(.+)'\]", path)
                found[entry["name"]] = (
                    metadata["labels"][label[1]] if label else metadata[path.removeprefix("metadata.")]
                )
            elif reference := source.get("secretKeyRef"):
                found[entry["name"]] = self._volumes.secrets[reference["name"]][reference["key"]]
            else:
                found[entry["name"]] = entry["value"]
        return found


def _as_user(spec: Object) -> list[str]:
    context = spec["securityContext"]
    groups = f"--groups={context['fsGroup']}" if "fsGroup" in context else "--clear-groups"
    who = [f"--reuid={context['runAsUser']}", f"--regid={context['runAsGroup']}", groups]
    # The signal for the end of the parent is set anew: a process that becomes another user loses it.
    return [*_DIES_WITH_US, *who, "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]


def _children(pid: int) -> list[int]:
    with suppress(FileNotFoundError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _innermost_id(pid: int) -> int:
    with suppress(FileNotFoundError, ProcessLookupError):
        status = Path(f"/proc/{pid}/status").read_text()
        return int(re.findall(r"(?m)^NSpid:.*\s(\d+)$", status)[0])
    return 0
