"""Threads by what a container may use, decided in the process that computes with them."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.config import RunConfig
from pipelines.config.serving import ServingConfig
from pipelines.label.engines.actor import TeacherSetup
from pipelines.runtime import cpus
from pipelines.tasks import load_task, task_spec
from serving.engines import select

CORES = 64
VERSION_1 = {"cpu/cpu.cfs_quota_us": "{quota}\n", "cpu/cpu.cfs_period_us": "100000\n"}
VERSION_2 = {"cpu.max": "{quota} 100000\n"}


class Machine:
    """One of 64 cores, of which a container's quota leaves some."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        patch.setattr(cpus, "_CGROUPS", folder)
        patch.setattr(os, "sched_getaffinity", lambda _: set(range(CORES)))
        patch.setattr(cpus, "_physical_cores", len)

    def limit(self, quota: str, files: Mapping[str, str] = VERSION_2) -> None:
        for name, text in files.items():
            (self._folder / name).parent.mkdir(exist_ok=True)
            (self._folder / name).write_text(text.format(quota=quota))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


@pytest.mark.parametrize("files", [VERSION_1, VERSION_2], ids=["version 1", "version 2"])
@pytest.mark.parametrize(("quota", "usable"), [("400000", 4), ("350000", 3), ("50000", 1), ("9900000", CORES)])
def test_a_containers_quota_limits_what_its_affinity_shows(
    machine: Machine, files: Mapping[str, str], quota: str, usable: int
) -> None:
    machine.limit(quota, files)
    assert cpus.usable_cpus() == cpus.threads_of_each(1) == usable


def test_without_a_quota_the_affinity_counts(machine: Machine) -> None:
    assert cpus.usable_cpus() == CORES
    machine.limit("-1", VERSION_1)
    assert cpus.usable_cpus() == CORES
    machine.limit("max")
    assert cpus.usable_cpus() == CORES


def test_those_that_share_a_machine_share_its_cores(machine: Machine) -> None:
    assert [cpus.threads_of_each(sharing) for sharing in (1, 2, 3, 10_000)] == [64, 32, 21, 1]
    machine.limit("400000")
    assert [cpus.threads_of_each(sharing) for sharing in (1, 2, 3, 8)] == [4, 2, 1, 1]


def test_two_threads_of_a_core_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        cpus.Path, "read_text", lambda path: "0-1\n" if "cpu0/" in str(path) or "cpu1/" in str(path) else "2\n"
    )
    assert cpus._physical_cores({0, 1, 2}) == 2


def test_vllm_does_not_bind_a_thread_to_every_core_where_a_quota_leaves_fewer(machine: Machine) -> None:
    assert cpus.vllm_threads(1) == {"OMP_NUM_THREADS": "64"}
    assert cpus.vllm_threads(2) == {"OMP_NUM_THREADS": "32"}
    machine.limit("9900000")
    assert cpus.vllm_threads(1) == {"OMP_NUM_THREADS": "64"}
    machine.limit("400000")
    assert cpus.vllm_threads(1) == {"OMP_NUM_THREADS": "4", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    assert cpus.vllm_threads(2) == {"OMP_NUM_THREADS": "2", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}


def test_two_starts_at_once_leave_the_environment_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "before")
    first, go, seen = threading.Event(), threading.Event(), []

    def start(threads: str) -> None:
        with cpus.inherited({"OMP_NUM_THREADS": threads}):
            first.set()
            assert go.wait(10.0)
            seen.append((threads, os.environ["OMP_NUM_THREADS"]))

    starts = [threading.Thread(target=start, args=(threads,)) for threads in "12"]
    starts[0].start()
    assert first.wait(10.0)
    starts[1].start()
    starts[1].join(0.1)
    go.set()
    for one in starts:
        one.join(10.0)
    assert seen == [("1", "1"), ("2", "2")]
    assert os.environ["OMP_NUM_THREADS"] == "before"


class Noted:
    """Stands in for an engine, and notes the threads that it would start with."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.threads = ""
        for name in (
            "OMP_NUM_THREADS",
            "VLLM_CPU_OMP_THREADS_BIND",
            "VLLM_CPU_NUM_OF_RESERVED_CPU",
            "VLLM_CPU_KVCACHE_SPACE",
        ):
            patch.setenv(name, "of the driver")

    def start(self, *_: Any) -> None:
        self.threads = os.environ["OMP_NUM_THREADS"]


@pytest.mark.parametrize(("gpus", "threads"), [(0, "2"), (1, "of the driver")])
def test_a_teacher_has_the_threads_of_its_own_machine(
    gpus: int, threads: str, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.limit("400000")
    noted = Noted(monkeypatch)
    monkeypatch.setattr("pipelines.label.teachers.vllm.VllmTeacher", noted.start)
    teacher = {"engine": "vllm", "model": "m", "replicas": {"min": 1, "max": 2}, "gpus_per_replica": gpus}
    run = RunConfig.model_validate(
        {"name": "r", "output": "o", "task": "arithmetic", "corpus": {"train": "t.jsonl"}, "student": {"model": "m"}, "teacher": teacher}
    )  # fmt: skip
    spec = task_spec("arithmetic")
    TeacherSetup(run, spec, 4).teacher(load_task(spec))
    assert noted.threads == threads


@pytest.mark.parametrize(
    ("serving", "threads"),
    [({}, "1"), ({"max_replicas_per_node": 2}, "2"), ({"gpus_per_replica": 1}, "of the driver")],
)
def test_a_replica_has_the_threads_of_its_own_machine(
    serving: dict[str, Any], threads: str, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.limit("400000")
    noted = Noted(monkeypatch)
    monkeypatch.setattr("serving.engines.vllm.VllmEngine.start", noted.start)
    monkeypatch.setattr("serving.engines.vllm.check_cpu_attention", lambda folder: None)
    monkeypatch.setattr(select, "check_student_files", lambda store: None)
    config = ServingConfig.model_validate({"replicas": {"min": 1, "max": 4}, **serving})
    card: Any = SimpleNamespace(folder=str(tmp_path))
    select._vllm(card, config, metrics=None)  # type: ignore[arg-type]
    assert noted.threads == threads
    assert os.environ["OMP_NUM_THREADS"] == "of the driver", "processes that are started later are not vLLM's"
    assert "OMP_NUM_THREADS" not in select.cpu_environment(config, ["vllm"]), "the machine that deploys is another one"
