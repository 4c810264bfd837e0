"""A Ray cluster of machines: `ray start` for each, with an address of its own where there is a network of hosts.

with Network(3) as network, Machines(folder, network.hosts, {...}) as cluster:
    cluster.raystill("label", str(run_file))          # a command on the first machine, which is the head
    cluster.machines[1].kill()                        # all its processes at once, as when a machine is lost
    cluster.start(1)                                  # another in its place, at its address
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx
import psutil

from cluster.session.local_cluster import start_node
from tests.support.commands import COMMAND
from tests.support.endpoints import running_replicas
from tests.support.label_kills import sigkill, title_of
from tests.support.network import Host

ROOT = Path(__file__).parents[2]
TOKEN = "a-token-of-these-tests"
PORT, DASHBOARD = 6379, 8265
CPUS = 8
OBJECT_STORE = 150 << 20
GIVE_UP_S = 240.0
SOON_DEAD = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
"""For the head: a node that gives no answer is given up after some 5 seconds, in place of Ray's half minute, so that tests end."""


@dataclass
class Machine:
    """One machine: `process` is its `ray start`, the parent of all that Ray runs there."""

    number: int
    host: Host
    process: subprocess.Popen[bytes]
    log: Path

    def family(self) -> list[psutil.Process]:
        """Its processes that are there now."""
        try:
            first = psutil.Process(self.process.pid)
            return [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def runs(self, title: str) -> bool:
        """Whether one of its processes is called so. Ray calls its workers after their actors."""
        return any(title in title_of(process) for process in self.family())

    def kill(self) -> None:
        """SIGKILL to all of them."""
        family = self.family()
        sigkill(family)
        psutil.wait_procs(family, timeout=10)
        self.process.wait()


class Machines:
    """The cluster, while the block lasts."""

    def __init__(
        self, folder: Path, hosts: Sequence[Host], variables: Mapping[str, str], *,
        head_cpus: int = CPUS, head: Mapping[str, str] = SOON_DEAD, redis_password: str | None = None,
    ) -> None:  # fmt: skip
        """
        Args:
            folder: for logs.
            hosts: the first is the head's.
            variables: of all that runs on the machines.
            head_cpus: 0: no work is done there.
            head: variables of the head alone.
            redis_password: where they name a Redis.
        """
        self._folder, self._hosts, self._head_cpus, self._head = folder, hosts, head_cpus, dict(head)
        self._redis = [f"--redis-password={redis_password}"] if redis_password else []
        # Sockets lie in it: their paths must be short.
        self._sockets = tempfile.TemporaryDirectory(prefix="rs-", dir="/tmp")
        self._variables = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            "HF_HUB_OFFLINE": "1",
            "RAYSTILL_CACHE": str(folder / "cache"),
            **variables,
        }
        self._started = 0
        self._seen: set[str] = set()
        """Ids of all nodes so far: a head that comes back with its state knows them too."""
        self.machines: dict[int, Machine] = {}

    def __enter__(self) -> Self:
        try:
            for number in range(len(self._hosts)):
                self.start(number, wait=number == 0)
            self.until(lambda: len(self.alive()) == len(self._hosts), "all machines")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for machine in reversed(self.machines.values()):
            machine.kill()
        self._sockets.cleanup()

    @property
    def address(self) -> str:
        """For RAY_ADDRESS."""
        return f"{self._hosts[0].address}:{PORT}"

    def start(self, number: int, *, wait: bool = True, **variables: str) -> Machine:
        """Start a machine, or another in the place of one that is gone.

        Args:
            wait: until the head knows it.
            variables: of this machine alone.
        """
        host = self._hosts[number]
        self._started += 1
        own = f"--temp-dir={self._sockets.name}/{self._started}"  # a machine in another's place knows nothing of it
        where = [f"--node-ip-address={host.address}", f"--object-store-memory={OBJECT_STORE}", own]
        if number == 0:
            dashboard = [f"--dashboard-host={host.address}", f"--dashboard-port={DASHBOARD}"]
            head = ["--head", f"--port={PORT}", *dashboard]
            arguments = [*where, *head, *self._redis, f"--num-cpus={self._head_cpus}"]
            own_variables = self._variables | self._head | variables
        else:
            arguments = [*where, f"--address={self.address}", f"--num-cpus={CPUS}"]
            own_variables = self._variables | variables
        log = self._folder / f"machine-{number}.log"
        self._alive()
        before = set(self._seen)
        with host.entered():
            process = start_node(arguments, log, own_variables)
        self.machines[number] = Machine(number, host, process, log)
        if wait:  # the one in whose place it is may be taken to be alive still
            self.until(lambda: self._came(host.address, before), f"machine {number}")
        return self.machines[number]

    def environment(self) -> dict[str, str]:
        """Of a command that uses the cluster."""
        cleared = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        return {
            **cleared, **self._variables, "RAY_ADDRESS": self.address, "COLUMNS": "160", "PYTHONPATH": str(ROOT),
            "RAY_TMPDIR": self._sockets.name,
        }  # fmt: skip

    def raystill(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command on the head to its end."""
        with self._hosts[0].entered():
            return subprocess.run(
                [*COMMAND, *arguments],
                capture_output=True,
                text=True,
                env=self.environment(),
                cwd=self._folder,
                check=False,
            )

    @contextmanager
    def running(self, *arguments: str, log: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
        """A command on the head that runs meanwhile; what is left of it afterwards is killed."""
        with self._hosts[0].entered(), log.open("ab") as output:
            process = subprocess.Popen(
                [*COMMAND, *arguments],
                stdout=output,
                stderr=output,
                env=self.environment() | variables,
                cwd=self._folder,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                sigkill([process_of(process), *process_of(process).children(recursive=True)])
            process.wait()

    def ask(self, path: str) -> Any:
        """What the head's dashboard answers. Raises httpx.HTTPError."""
        return self._request("GET", path)

    def deploy(self, config: Any) -> None:
        """What KubeRay's operator does with a Serve config."""
        self._request("PUT", "/api/serve/applications/", json=config)

    def _request(self, method: str, path: str, **body: Any) -> Any:
        url = f"http://{self._hosts[0].address}:{DASHBOARD}{path}"
        headers = {"Authorization": f"Bearer {TOKEN}"}
        with self._hosts[0].entered(), httpx.Client(trust_env=False, timeout=30.0, headers=headers) as client:
            response = client.request(method, url, **body)
        response.raise_for_status()
        return response.json() if response.content else None

    def alive(self) -> dict[str, str]:
        """Address -> id of the nodes that the head takes to be alive."""
        return dict(self._alive())

    def _came(self, address: str, before: set[str]) -> bool:
        """Whether another node of that address is alive than those from before."""
        return any(where == address and node not in before for where, node in self._alive())

    def _alive(self) -> list[tuple[str, str]]:
        """Addresses and ids: for a while two of one address, where one is in the place of another that was killed."""
        try:
            listed = self.ask("/api/v0/nodes?limit=100")["data"]["result"]["result"]
        except httpx.HTTPError:
            return []
        self._seen |= {node["node_id"] for node in listed}
        return [(node["node_ip"], node["node_id"]) for node in listed if node["state"] == "ALIVE"]

    def replicas(self) -> dict[str, list[str]]:
        """Application -> the addresses of the machines on which its replicas run."""
        running = running_replicas(self.ask("/api/serve/applications/"))
        return {name: [replica["node_ip"] for replica in found] for name, found in running.items()}

    def until(self, condition: Callable[[], bool], what: str, seconds: float = GIVE_UP_S) -> float:
        """Wait for it. The seconds that it took. Raises AssertionError, with the ends of the machines' logs, where it does not come."""
        began = time.monotonic()
        while not condition():
            assert time.monotonic() - began < seconds, f"{what} did not come within {seconds:.0f} s\n{self._logs()}"
            time.sleep(0.2)
        return time.monotonic() - began

    def _logs(self) -> str:
        return "\n".join(m.log.read_text(errors="replace")[-1000:] for m in self.machines.values())


def process_of(process: subprocess.Popen[bytes]) -> psutil.Process:
    return psutil.Process(process.pid)
