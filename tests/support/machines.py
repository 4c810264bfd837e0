"""A Ray cluster of simulated machines: one `ray start` per host, each with its own address.

with Network(3) as network, Machines(folder, network.hosts, {...}) as cluster:
    cluster.raystill("label", str(run_file))          # a command on the head (the first machine)
    cluster.machines[1].kill()                        # kills all its processes at once
    cluster.start(1)                                  # starts a new machine at the same address
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx
import psutil

from cluster.session.local_cluster import start_node
from tests.support.commands import raystill, running
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
"""For the head: a node without responses is dead after about 5 seconds, instead of Ray's half minute."""


@dataclass
class Machine:
    """One machine. `process` is its `ray start`, the parent of all its Ray processes."""

    number: int
    host: Host
    process: subprocess.Popen[bytes]
    log: Path

    def family(self) -> list[psutil.Process]:
        try:
            first = psutil.Process(self.process.pid)
            return [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def runs(self, title: str) -> bool:
        """True if the title of one of its processes contains `title`. Ray names workers after their actors."""
        return any(title in title_of(process) for process in self.family())

    def kill(self) -> None:
        family = self.family()
        sigkill(family)
        psutil.wait_procs(family, timeout=10)
        self.process.wait()


class Machines:
    """The cluster, for the duration of the block."""

    def __init__(
        self, folder: Path, hosts: Sequence[Host], variables: Mapping[str, str], *,
        head_cpus: int = CPUS, head: Mapping[str, str] = SOON_DEAD, redis_password: str | None = None,
    ) -> None:  # fmt: skip
        """
        Args:
            folder: for logs.
            hosts: the first is the head's.
            variables: environment of all processes on the machines.
            head_cpus: 0 keeps work off the head.
            head: environment of the head only.
            redis_password: if the variables name a Redis.
        """
        self._folder, self._hosts, self._head_cpus, self._head = folder, hosts, head_cpus, dict(head)
        self._redis = [f"--redis-password={redis_password}"] if redis_password else []
        # Socket paths must be short.
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
        """Ids of all nodes so far. A restarted head with state still lists them."""
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
        return f"{self._hosts[0].address}:{PORT}"

    def start(self, number: int, *, wait: bool = True, **variables: str) -> Machine:
        """Start a machine, or replace a lost one.

        Args:
            wait: wait until the head knows the machine.
            variables: environment of this machine only.
        """
        host = self._hosts[number]
        self._started += 1
        own = f"--temp-dir={self._sockets.name}/{self._started}"  # a replacement keeps no files
        common = [f"--node-ip-address={host.address}", f"--object-store-memory={OBJECT_STORE}", own]
        if number == 0:
            dashboard = [f"--dashboard-host={host.address}", f"--dashboard-port={DASHBOARD}"]
            head = ["--head", f"--port={PORT}", *dashboard]
            arguments = [*common, *head, *self._redis, f"--num-cpus={self._head_cpus}"]
            own_variables = self._variables | self._head | variables
        else:
            arguments = [*common, f"--address={self.address}", f"--num-cpus={CPUS}"]
            own_variables = self._variables | variables
        log = self._folder / f"machine-{number}.log"
        self._alive()
        before = set(self._seen)
        with host.entered():
            process = start_node(arguments, log, own_variables)
        self.machines[number] = Machine(number, host, process, log)
        if wait:  # the head may still consider the replaced machine alive
            joined = lambda: any(ip == host.address and node not in before for ip, node in self._alive())  # noqa: E731
            self.until(joined, f"machine {number}")
        return self.machines[number]

    def environment(self) -> dict[str, str]:
        cleared = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        return {
            **cleared, **self._variables, "RAY_ADDRESS": self.address, "COLUMNS": "160", "PYTHONPATH": str(ROOT),
            "RAY_TMPDIR": self._sockets.name,
        }  # fmt: skip

    def raystill(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        with self._hosts[0].entered():
            return raystill(*arguments, env=self.environment(), cwd=self._folder)

    @contextmanager
    def running(self, *arguments: str, log: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
        """A running command on the head. The rest of its session is killed after the block."""
        with ExitStack() as stack:
            with self._hosts[0].entered():
                command = running(*arguments, log=log, env=self.environment() | variables, cwd=self._folder)
                process = stack.enter_context(command)
            yield process

    def ask(self, path: str) -> Any:
        """JSON from the head's dashboard. Raises httpx.HTTPError."""
        return self._request("GET", path)

    def deploy(self, config: Any) -> None:
        """Deploy a Serve config as KubeRay's operator does."""
        self._request("PUT", "/api/serve/applications/", json=config)

    def _request(self, method: str, path: str, **body: Any) -> Any:
        url = f"http://{self._hosts[0].address}:{DASHBOARD}{path}"
        headers = {"Authorization": f"Bearer {TOKEN}"}
        with self._hosts[0].entered(), httpx.Client(trust_env=False, timeout=30.0, headers=headers) as client:
            response = client.request(method, url, **body)
        response.raise_for_status()
        return response.json() if response.content else None

    def alive(self) -> dict[str, str]:
        """Address -> id of the nodes that the head considers alive."""
        return dict(self._alive())

    def _alive(self) -> list[tuple[str, str]]:
        """(address, id) of live nodes. After a replacement, two may share an address for a while."""
        try:
            listed = self.ask("/api/v0/nodes?limit=100")["data"]["result"]["result"]
        except httpx.HTTPError:
            return []
        self._seen |= {node["node_id"] for node in listed}
        return [(node["node_ip"], node["node_id"]) for node in listed if node["state"] == "ALIVE"]

    def replicas(self) -> dict[str, list[str]]:
        """Application -> addresses of the machines with its running replicas."""
        there = running_replicas(self.ask("/api/serve/applications/"))
        return {name: [replica["node_ip"] for replica in found] for name, found in there.items()}

    def until(self, condition: Callable[[], bool], what: str, seconds: float = GIVE_UP_S) -> float:
        """Wait for a condition. Returns the seconds; raises AssertionError with the machines' logs after `seconds`."""
        begin = time.monotonic()
        while not condition():
            assert time.monotonic() - begin < seconds, f"{what}: not within {seconds:.0f} s\n{self._logs()}"
            time.sleep(0.2)
        return time.monotonic() - begin

    def _logs(self) -> str:
        return "\n".join(m.log.read_text(errors="replace")[-1000:] for m in self.machines.values())
