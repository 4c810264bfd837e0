"""A Ray of several nodes on this machine, in a separate process, so that tests can kill a node with its processes.

python -m tests.support.nodes 2 8     a head without CPUs and two nodes with 8; prints the address, ends when stdin closes
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

from tests.support.commands import environment

CPUS = 8
OBJECT_STORE_MIB = 150


@dataclass(frozen=True)
class Cluster:
    """`address` is for RAY_ADDRESS; `process` is the parent of all raylets."""

    address: str
    process: psutil.Process


@contextmanager
def ray_nodes(count: int, cpus: int = CPUS) -> Iterator[Cluster]:
    """A cluster for the duration of the block: a head without work and `count` nodes with `cpus` CPUs each."""
    command = [sys.executable, "-m", "tests.support.nodes", str(count), str(cpus)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        address = process.stdout.readline().strip()
        assert address, "the cluster did not start"
        try:
            yield Cluster(address, psutil.Process(process.pid))
        finally:
            process.stdin.close()


def main() -> None:
    from ray.cluster_utils import Cluster as RayCluster

    cluster = RayCluster(initialize_head=True, head_node_args={"num_cpus": 0})
    count, cpus = (int(argument) for argument in sys.argv[1:])
    for _ in range(count):
        cluster.add_node(num_cpus=cpus, object_store_memory=OBJECT_STORE_MIB << 20)
    print(cluster.address, flush=True)
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main()
