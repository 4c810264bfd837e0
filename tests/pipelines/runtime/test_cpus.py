"""Threads within a container's quota, chosen in the process that computes with them."""

import os
import threading
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.config.serving import ServingConfig
from pipelines.label.teachers.base import Access
from pipelines.label.teachers.vllm import VllmTeacher
from pipelines.runtime import cpus, vllm_cpu
from pipelines.runtime.compat.vllm import executor_in_scheduler
from pipelines.tasks import load_task, task_spec
from serving.engines.select import cpu_environment
from serving.engines.vllm import VllmEngine
from tests.support.corpora import run_config

CORES = 64
VERSION_1 = {"cpu/cpu.cfs_quota_us": "{quota}\n", "cpu/cpu.cfs_period_us": "100000\n"}
VERSION_2 = {"cpu.max": "{quota} 100000\n"}


class Machine:
    """A machine with 64 cores, on which a container has a quota."""

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


@pytest.mark.parametrize(
    ("quota", "files", "usable"),
    [
        *((quota, files, usable) for files in (VERSION_1, VERSION_2)
          for quota, usable in (("400000", 4), ("350000", 3), ("50000", 1), ("9900000", CORES))),
        ("-1", VERSION_1, CORES),
        ("max", VERSION_2, CORES),
        ("", {}, CORES),
    ],
)  # fmt: skip
def test_a_quota_limits_the_affinity(machine: Machine, quota: str, files: Mapping[str, str], usable: int) -> None:
    machine.limit(quota, files)
    assert cpus.usable_cpus() == cpus.threads_of_each(1) == usable
    shares = [max(1, usable // processes) for processes in (2, 3, 8, 10_000)]
    assert [cpus.threads_of_each(processes) for processes in (2, 3, 8, 10_000)] == shares, "of a machine's processes"


def test_two_hardware_threads_of_a_core_count_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def siblings(path: Path) -> str:
        return "0-1\n" if "cpu0/" in str(path) or "cpu1/" in str(path) else "2\n"

    monkeypatch.setattr(cpus.Path, "read_text", siblings)
    assert cpus._physical_cores({0, 1, 2}) == 2


def test_vllm_binds_no_threads_under_a_quota_or_on_few_cores(machine: Machine) -> None:
    assert vllm_cpu.engine_threads(2) == {"OMP_NUM_THREADS": "32"}
    assert "distributed_executor_backend" not in vllm_cpu.cpu_arguments(512)
    machine.limit("9900000")
    assert vllm_cpu.engine_threads(1) == {"OMP_NUM_THREADS": "64"}
    for quota, threads in (("1600000", "8"), ("400000", "2")):
        machine.limit(quota)
        assert vllm_cpu.engine_threads(2) == {"OMP_NUM_THREADS": threads, "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        assert vllm_cpu.cpu_arguments(512)["distributed_executor_backend"] is executor_in_scheduler()


def test_concurrent_blocks_restore_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "before")
    first, go, seen = threading.Event(), threading.Event(), []

    def start(threads: str) -> None:
        with cpus.inherited({"OMP_NUM_THREADS": threads}):
            first.set()
            assert go.wait(10.0)
            seen.append((threads, os.environ["OMP_NUM_THREADS"]))

    one, two = (threading.Thread(target=start, args=(threads,)) for threads in "12")
    one.start()
    assert first.wait(10.0)
    two.start()
    two.join(0.1)
    go.set()
    one.join(10.0)
    two.join(10.0)
    assert seen == [("1", "1"), ("2", "2")]
    assert os.environ["OMP_NUM_THREADS"] == "before"


class RecordingEngine:
    """Stands in for an engine and records the threads that it would start with."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.threads = ""
        of_vllm = ("OMP_THREADS_BIND", "NUM_OF_RESERVED_CPU", "KVCACHE_SPACE")
        for name in ("OMP_NUM_THREADS", *(f"VLLM_CPU_{name}" for name in of_vllm)):
            patch.setenv(name, "of the driver")

    def start(self, *_: Any) -> None:
        self.threads = os.environ["OMP_NUM_THREADS"]


@pytest.mark.parametrize(("gpus", "threads"), [(0, "2"), (1, "of the driver")])
def test_a_teacher_fits_its_machine(gpus: int, threads: str, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.limit("400000")
    engine = RecordingEngine(monkeypatch)
    monkeypatch.setattr("pipelines.label.teachers.vllm.VllmTeacher.__init__", engine.start)
    run = run_config({"engine": "vllm", "model": "m", "replicas": {"min": 1, "max": 2}, "gpus_per_replica": gpus})
    VllmTeacher.start(run.teacher, load_task(task_spec("arithmetic")), Access())
    assert engine.threads == threads


@pytest.mark.parametrize(
    ("serving", "threads"),
    [({}, "1"), ({"max_replicas_per_node": 2}, "2"), ({"gpus_per_replica": 1}, "of the driver")],
)
def test_a_replica_fits_its_machine(
    serving: dict[str, Any], threads: str, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.limit("400000")
    engine = RecordingEngine(monkeypatch)
    monkeypatch.setattr("serving.engines.vllm.VllmEngine.start", engine.start)
    monkeypatch.setattr("serving.engines.vllm.require_manifest", lambda *_: None)
    for name in ("check_cpu_attention", "check_student_files"):
        monkeypatch.setattr(f"pipelines.students.decoding.vllm_settings.{name}", lambda *_: None)
    copy = "pipelines.students.decoding.vllm_settings.checked_copy"
    monkeypatch.setattr(copy, lambda store, manifest: nullcontext(tmp_path))
    config = ServingConfig.model_validate({"replicas": {"min": 1, "max": 4}, **serving})
    card: Any = SimpleNamespace(folder=str(tmp_path))
    VllmEngine.load(card, config, metrics=None)  # type: ignore[arg-type]
    assert engine.threads == threads
    assert os.environ["OMP_NUM_THREADS"] == "of the driver", "processes that start later are not vLLM's"
    assert "OMP_NUM_THREADS" not in cpu_environment(config, ["vllm"]), "the machine that deploys is another one"
