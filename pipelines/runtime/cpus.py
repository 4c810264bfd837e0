"""The cores that a process may compute on: what the affinity and a container's quota leave of its machine.

The affinity of a pod that is limited to 4 CPUs has all 64 cores of its node. With a thread on each of them the pod would use up its time in
a sixteenth of every period and stand still for the rest.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
"""In a container: its own group."""
_UNLIMITED = ("max", "-1")
_ENVIRONMENT = threading.RLock()


def usable_cpus() -> int:
    """Logical CPUs that this process and those beside it in its container may use."""
    return _within_quota(len(os.sched_getaffinity(0)))


def threads_of_each(sharing: int) -> int:
    """Compute threads of each of so many processes that share the physical cores there are here."""
    return max(1, _within_quota(_physical_cores(os.sched_getaffinity(0))) // sharing)


def vllm_threads(sharing: int) -> dict[str, str]:
    """Variables that give an engine of vLLM's CPU build its threads, which are those of processes that it starts.

    By itself it binds a thread to every core of the affinity and takes no notice of a quota, nor of OMP_NUM_THREADS; with `nobind` it does
    of the latter (vllm/utils/ompmultiprocessing.py of 0.29). Without a quota its own way stays: one replica of several may run alone.
    """
    cores = _physical_cores(os.sched_getaffinity(0))
    bind = {} if _within_quota(cores) == cores else {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    return {"OMP_NUM_THREADS": str(threads_of_each(sharing)), **bind}


def computes_bf16() -> bool:
    """Whether the CPU has instructions for bfloat16. Without them torch takes ten times as long for it as for float32."""
    import torch

    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@contextmanager
def inherited(variables: Mapping[str, str]) -> Iterator[None]:
    """Processes that are started while the block runs have these variables. Of several threads one runs such a block at a time: the
    environment is the whole process', and each must find what it had before."""
    with _ENVIRONMENT:
        before = {name: os.environ.get(name) for name in variables}
        os.environ.update(variables)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def _within_quota(cpus: int) -> int:
    quota = _quota()
    return cpus if quota is None else max(1, min(cpus, int(quota)))


def _quota() -> float | None:
    """CPUs whose time the container has; None where nothing limits it."""
    try:
        limit, period = _CGROUPS.joinpath("cpu.max").read_text().split()  # version 2 of cgroups
    except OSError:
        files = [_CGROUPS / "cpu" / f"cpu.cfs_{name}_us" for name in ("quota", "period")]
        try:
            limit, period = (file.read_text().strip() for file in files)
        except OSError:
            return None
    return None if limit in _UNLIMITED else int(limit) / int(period)


def _physical_cores(logical: set[int]) -> int:
    """Cores behind some logical CPUs: two hardware threads of one core compute no faster than one."""
    try:
        topology = [Path(f"/sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list").read_text() for n in logical]
    except OSError:
        return len(logical)
    return len(set(topology))
