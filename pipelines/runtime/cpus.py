"""The cores that a process may compute on: its CPU affinity, limited by the container's quota.

The affinity of a pod that is limited to 4 CPUs contains all 64 cores of its node. With a thread on each core, the pod would use up its
quota in a sixteenth of every period and stand still for the rest.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
"""In a container, its own group."""
_UNLIMITED = ("max", "-1")
_BF16_INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16")
_ENVIRONMENT = threading.RLock()
KEPT_MEMORY = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
"""Environment variables of a process that computes in torch on CPUs: glibc keeps memory that is freed. Otherwise it returns large tensors
to the kernel, which clears their pages before each new use: a sixth of the time. They take effect when a process starts (mallopt(3))."""


def usable_cpus() -> int:
    """Logical CPUs that the processes of this container may use together."""
    return _within_quota(len(os.sched_getaffinity(0)))


def threads_of_each(processes: int) -> int:
    """Compute threads per process if so many processes share the physical cores."""
    return max(1, _within_quota(physical_cores()) // processes)


def physical_cores() -> int:
    """Cores of this process' CPU affinity, without regard to a quota."""
    return _physical_cores(os.sched_getaffinity(0))


def computes_bf16() -> bool:
    """True if oneDNN computes in bfloat16 on this CPU. Otherwise torch is ten times slower with it than with float32."""
    import torch

    # Private: torch.cpu.get_capabilities lists instructions, not what oneDNN makes of them.
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def has_bf16_instructions() -> bool:
    """True if this CPU multiplies bfloat16 in hardware, several times as fast as float32 (AMX), or twice (AVX-512 BF16, Arm)."""
    import torch

    able = torch.cpu.get_capabilities()
    return computes_bf16() and any(able.get(name) for name in _BF16_INSTRUCTIONS)


@contextmanager
def inherited(variables: Mapping[str, str]) -> Iterator[None]:
    """Give processes that start inside the block these environment variables.

    One thread at a time runs such a block: the environment belongs to the whole process, and each block restores what it found.
    """
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
    """CPU time that the container gets, in CPUs; None if unlimited."""
    try:
        limit, period = _CGROUPS.joinpath("cpu.max").read_text().split()  # cgroup v2
    except OSError:
        files = [_CGROUPS / "cpu" / f"cpu.cfs_{name}_us" for name in ("quota", "period")]
        try:
            limit, period = (file.read_text().strip() for file in files)
        except OSError:
            return None
    return None if limit in _UNLIMITED else int(limit) / int(period)


def _physical_cores(logical: set[int]) -> int:
    """Number of cores behind logical CPUs: two hardware threads of one core compute no faster than one."""
    try:
        topology = [Path(f"/sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list").read_text() for n in logical]
    except OSError:
        return len(logical)
    return len(set(topology))
