"""The chain on three machines while one is killed, or disconnected and reconnected: rows, steps, requests.

A machine that reconnects within the head's timeout continues. Later, the head has declared it dead: the machine ends when it learns so,
and its supervisor (a kubelet; here the test) restarts it.
"""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.chain import Note, put_labels, with_student, write_chain
from tests.support.counting_task import answered, write_task
from tests.support.endpoints import Load
from tests.support.machines import Machine, Machines
from tests.support.network import Network, missing
from tests.support.object_store import Server

pytestmark = [
    pytest.mark.integration, pytest.mark.full, pytest.mark.timeout(600),
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]  # fmt: skip
ROWS = 3000
BODY = {"model": "sums", "inputs": ["Anne has 4 pens ."]}
SHORT_S = 2.0
"""Within the head's timeout of about 5 seconds (machines.SOON_DEAD)."""


@pytest.fixture(scope="module")
def machines(network: Network, storage: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    with Machines(tmp_path_factory.mktemp("machines"), network.hosts, storage.environment) as machines:
        yield machines


@pytest.fixture
def cluster(network: Network, machines: Machines) -> Iterator[Machines]:
    """All three machines alive, with this thread on the storage's network."""
    with network.lan.entered():
        yield machines
        for host in network.hosts[1:]:
            host.restore()
        for number, machine in machines.machines.items():
            if machine.host.address not in machines.alive():
                machine.kill()
                machines.start(number)


def worker_with(cluster: Machines, title: str) -> Machine:
    """A machine other than the head that runs a process with this title."""
    found = [machine for number, machine in cluster.machines.items() if number and machine.runs(title)]
    assert found, f"no worker runs {title}"
    return found[0]


class Kill:
    """Kills all processes of the machine, then starts a replacement."""

    def strike(self, cluster: Machines, machine: Machine) -> None:
        machine.kill()

    def repair(self, cluster: Machines, machine: Machine) -> None:
        cluster.start(machine.number)


class Cut:
    """Disconnects the machine until the head declares it dead. Reconnected, it ends and is restarted."""

    def strike(self, cluster: Machines, machine: Machine) -> None:
        machine.host.cut()
        address = machine.host.address
        cluster.until(lambda: address not in cluster.alive(), f"the end of {address}")

    def repair(self, cluster: Machines, machine: Machine) -> None:
        machine.host.restore()
        cluster.until(lambda: machine.process.poll() is not None, f"the end of {machine.host.address} by itself")
        assert machine.family() == []
        cluster.start(machine.number)


class CutShortly:
    """Disconnects the machine and reconnects it within the head's timeout."""

    def strike(self, cluster: Machines, machine: Machine) -> None:
        machine.host.cut()
        time.sleep(SHORT_S)

    def repair(self, cluster: Machines, machine: Machine) -> None:
        node = cluster.alive()[machine.host.address]
        machine.host.restore()
        time.sleep(SHORT_S)
        assert cluster.alive()[machine.host.address] == node


Fault = Kill | Cut | CutShortly
FAULTS = pytest.mark.parametrize("fault", [Kill(), Cut(), CutShortly()], ids=lambda fault: type(fault).__name__)


@FAULTS
def test_labelling_loses_and_doubles_no_row(
    cluster: Machines, storage: Server, tmp_path: Path, fault: Fault, note: Note
) -> None:
    task, log = write_task(tmp_path)
    chain = write_chain(tmp_path, storage.bucket(), ROWS, str(task))
    began = time.monotonic()
    with cluster.running("label", str(chain.file), log=tmp_path / "log") as command:
        everywhere = lambda: all(machine.runs("TeacherActor") for machine in cluster.machines.values())  # noqa: E731
        cluster.until(lambda: (chain.commits() >= 3 and everywhere()) or command.poll() is not None, "commits")
        assert command.poll() is None, log_tail(tmp_path)
        victim = worker_with(cluster, "TeacherActor")
        fault.strike(cluster, victim)
        assert not chain.is_finished("labels"), "the command ended before the fault"
        fault.repair(cluster, victim)
        assert command.wait(240) == 0, log_tail(tmp_path)
    lost, doubled = chain.lost_and_doubled()
    nodes = chain.manifest("labels")["details"]["nodes"]
    note(
        rows=ROWS, lost=lost, doubled=doubled, labelled_again=answered(log) - sum(nodes.values()), nodes=nodes,
        seconds=round(time.monotonic() - began, 1),
    )  # fmt: skip
    assert (lost, doubled) == (0, 0)


@FAULTS
def test_training_resumes_from_its_last_checkpoint(
    cluster: Machines, storage: Server, tmp_path: Path, fault: Fault, note: Note
) -> None:
    every = 10
    chain = write_chain(
        tmp_path, storage.bucket(), 200,
        training={"epochs": 5, "tokens_per_batch": 1000, "checkpoint_every_steps": every, "max_failures": 1},
    )  # fmt: skip
    put_labels(tmp_path, chain.bucket, 200)
    with cluster.running("train", str(chain.file), log=tmp_path / "log", FORCE_COLOR="1") as command:
        cluster.until(lambda: chain.checkpoints() >= 2 or command.poll() is not None, "checkpoints")
        assert command.poll() is None, log_tail(tmp_path)
        victim = worker_with(cluster, "RayTrainWorker")
        fault.strike(cluster, victim)
        reached = steps_seen(tmp_path)
        assert not chain.is_finished("student"), "the command ended before the fault"
        fault.repair(cluster, victim)
        assert command.wait(300) == 0, log_tail(tmp_path)
    training = chain.manifest("student")["details"]["training"]
    lines = chain.bucket.get("out/student/training.jsonl").decode().splitlines()
    began_at = training["started_at_steps"]
    lost = max(reached) - began_at[-1] if len(began_at) > 1 else 0
    note(steps=training["steps"], began_at=began_at, steps_lost=lost, nodes=training["nodes"])
    assert [json.loads(line)["step"] for line in lines] == list(range(training["steps"]))
    assert all(len(set(ranks)) == 2 for ranks in training["nodes"])
    assert len(began_at) == (1 if isinstance(fault, CutShortly) else 2)
    assert lost <= 3 * every


@FAULTS
@pytest.mark.parametrize(("students", "ingresses"), [(3, 1), (2, 2)], ids=["a student", "an ingress"])
def test_serving_answers_meanwhile(
    cluster: Machines, storage: Server, tmp_path: Path, fault: Fault, students: int, ingresses: int, note: Note
) -> None:
    """At most one replica of each application per machine. With three students and one ingress, some worker has only a student; with two
    ingresses, one of the two workers has an ingress."""
    sizes = {"replicas": {"min": students, "max": students}, "ingress_replicas": ingresses}
    chain = with_student(tmp_path, storage, sizes)
    served = cluster.raystill("serve", f"sums={chain.student}", "--run", str(chain.file), "--detach")
    assert served.returncode == 0, served.stderr[-3000:]
    there = cluster.replicas()
    with_ingress = set(there["raystill"])
    victim = next(
        machine for number, machine in cluster.machines.items()
        if number and (machine.host.address in with_ingress) == (ingresses > 1)
    )  # fmt: skip
    address = victim.host.address

    def spread(without: str = "") -> bool:
        """True if all replicas run on separate machines other than `without`."""
        machines = len(cluster.machines) - bool(without)
        wanted = {"raystill": min(ingresses, machines), "raystill-student-sums": min(students, machines)}
        return all(len(set(cluster.replicas()[name]) - {without}) == count for name, count in wanted.items())

    with Load(f"http://{cluster.machines[0].host.address}:8000", BODY, retry=True) as load:
        load.answered(100)
        fault.strike(cluster, victim)
        if not isinstance(fault, CutShortly):
            cluster.until(lambda: spread(without=address), "replicas on the two others")
        fault.repair(cluster, victim)
        cluster.until(spread, "replicas as before")
        load.answered(100)
    note(
        replicas=there, victim=address, answered=len(load.responses) - len(load.failed), failed=len(load.failed),
        sent_again=load.retried, longest_s=round(max(r.elapsed.total_seconds() for r in load.responses), 1), failures=load.failed[:2],
    )  # fmt: skip
    assert load.retried == 0
    assert len(load.failed) <= (load.clients if ingresses > 1 else 0), load.failed


def steps_seen(folder: Path) -> list[int]:
    """Steps shown by the command's progress bar."""
    return [int(step) for step in re.findall(r"step (\d+)/", (folder / "log").read_text(errors="replace"))]


def log_tail(folder: Path) -> str:
    return (folder / "log").read_text(errors="replace")[-3000:]
