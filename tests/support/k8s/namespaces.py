"""Pods on this machine without Kubernetes: what a kubelet does with a Pod, in namespaces. Only root can make them.

    with Node(folder, volumes, hosts={"head-svc": 2}) as node:       # a network with a bridge
        head = node.start(pod, number=2)                             # its own address, hostname, file system and process ids
        head.ready()                                                 # one call of its readiness probe
        head.terminate()                                             # SIGTERM to its process 1, as a deletion sends it

Instead of an image a pod sees this machine's system, this checkout and its Python environment. It sees its volumes at their paths, and
nothing of /tmp, /root or /home. It runs as its user, without capabilities. Not enforced: limits of memory and CPUs, seccomp, network
policies. All processes end with this one.
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
from tests.support.k8s.rendering import ROOT, Object

_DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL")
_NAMESPACES = ("--net", "--uts", "--ipc", "--mount", "--pid", "--fork", "--mount-proc")


def missing() -> str | None:
    """Why pods cannot start here, or None if they can."""
    if why := network.missing():
        return why
    if shutil.which("wget") is None:
        return "wget is not installed. Probes call it."
    if ROOT.is_relative_to("/tmp"):
        return f"{ROOT} is below /tmp, which is a volume in pods. Clone it elsewhere."
    trial = ["unshare", *_NAMESPACES, "mount", "-t", "tmpfs", "none", "/mnt"]
    done = subprocess.run(trial, capture_output=True, text=True, check=False)
    return f"namespaces cannot be made here: {done.stderr.strip()}" if done.returncode else None


@dataclass
class RunningPod:
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
        """This machine's id of the pod's process 1, or 0 while init containers run."""
        return next((pid for pid in _children(self.process.pid) if _innermost_id(pid) == 1), 0)

    @property
    def grace_s(self) -> float:
        return float(self.manifest["spec"]["terminationGracePeriodSeconds"])

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def ready(self) -> bool:
        return self.probe("readinessProbe")

    def probe(self, name: str) -> bool:
        """The result of one probe: httpGet from the node, exec in the container."""
        probe = self.manifest["spec"]["containers"][0][name]
        if not self.first:
            return False
        if "exec" in probe:
            with suppress(subprocess.TimeoutExpired):
                return self.run(*probe["exec"]["command"], timeout=probe["timeoutSeconds"]).returncode == 0
            return False
        get = probe["httpGet"]
        with self.node.entered(), suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            url = f"http://{self.address}:{get['port']}{get['path']}"
            with urllib.request.urlopen(url, timeout=probe["timeoutSeconds"]) as response:
                return bool(200 <= response.status < 400)
        return False

    def run(self, *command: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a command in the container, as `kubectl exec` does."""
        inside = ["nsenter", f"--target={self.first}", "--all", "--root", "--wd", *_as_user(self.manifest["spec"])]
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        return subprocess.run(
            [*inside, "env", "-i", *variables, *command], capture_output=True, text=True, check=False, timeout=timeout
        )

    def terminate(self) -> None:
        """Send SIGTERM to process 1, as a deletion does. The kernel drops it if process 1 has no handler."""
        self.terminating = True
        os.kill(self.first, signal.SIGTERM)

    def kill(self) -> None:
        """Kill the pod with all that it started: a pid namespace ends with its process 1."""
        self.process.kill()
        self.process.wait()

    def tail(self, characters: int = 4000) -> str:
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
        """Moves this thread into the pods' network: new sockets and processes are there."""
        return self._network.lan.entered()

    def address(self, number: int) -> str:
        return f"{self._network.lan.address.rpartition('.')[0]}.{number}"

    def start(self, manifest: Object, number: int) -> RunningPod:
        """Start a pod at address `number` (2 to 254) of the network. Its init containers run first."""
        name, address = str(manifest["metadata"]["name"]), self.address(number)
        folder = self._folder / name
        folder.mkdir(parents=True)
        places = {host: self.address(pod) for host, pod in self._hosts.items()}
        short = {host.partition(".")[0]: place for host, place in places.items()}
        hosts = {"localhost": "127.0.0.1", name: address, **places, **short}
        environment = self._environment(manifest, manifest["spec"]["containers"][0])
        lines = ["set -eu", *self._cable(number, name), *mounts(folder, manifest, self._volumes, hosts)]
        script = "\n".join([*lines, *self._containers(folder, manifest)])
        outside = [*_DIES_WITH_US, "unshare", "--net", "--uts", "--ipc", "--mount", "bash", "-c", script]
        log = folder / "log"
        with log.open("wb") as output:
            # A session of its own: a signal to our process group must not reach the pod.
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
        yield f"ip route add default via {gateway}"  # Ray takes the address of its default route for its own
        yield f"hostname {shlex.quote(name)}"

    def _containers(self, folder: Path, manifest: Object) -> Iterator[str]:
        """The init containers one after the other. The first container then replaces this script."""
        spec = manifest["spec"]
        alone = ["unshare", "--pid", "--fork", "--kill-child=KILL", f"--root={folder / 'root'}", "--wd=/home/ray"]
        for container, before in [*((c, "") for c in spec.get("initContainers", [])), (spec["containers"][0], "exec ")]:
            variables = [f"{name}={value}" for name, value in self._environment(manifest, container).items()]
            command = [*container["command"], *container["args"]]
            isolated = [*_DIES_WITH_US, *alone, "--mount-proc"]
            yield before + shlex.join([*isolated, *_as_user(spec), "env", "-i", *variables, *command])

    def _environment(self, manifest: Object, container: Object) -> dict[str, str]:
        """The image's and the container's variables, with the values of fields and Secrets."""
        metadata = manifest["metadata"]
        found = image_environment()
        for entry in container.get("env", []):
            source = entry.get("valueFrom", {})
            if path := source.get("fieldRef", {}).get("fieldPath"):
                label = re.fullmatch(r"metadata\.labels\['(.+)'\]", path)
                field = metadata["labels"][label[1]] if label else metadata[path.removeprefix("metadata.")]
                found[entry["name"]] = field
            elif reference := source.get("secretKeyRef"):
                found[entry["name"]] = self._volumes.secrets[reference["name"]][reference["key"]]
            else:
                found[entry["name"]] = entry["value"]
        return found


def _as_user(spec: Object) -> list[str]:
    context = spec["securityContext"]
    groups = f"--groups={context['fsGroup']}" if "fsGroup" in context else "--clear-groups"
    user = [f"--reuid={context['runAsUser']}", f"--regid={context['runAsGroup']}", groups]
    # Repeated here, because a process that changes its user loses the parent-death signal.
    return [*_DIES_WITH_US, *user, "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]


def _children(pid: int) -> list[int]:
    with suppress(FileNotFoundError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _innermost_id(pid: int) -> int:
    with suppress(FileNotFoundError, ProcessLookupError):
        status = Path(f"/proc/{pid}/status").read_text()
        return int(re.findall(r"(?m)^NSpid:.*\s(\d+)$", status)[0])
    return 0
