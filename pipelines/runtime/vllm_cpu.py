"""What an engine of vLLM's CPU build is told, for teachers and students: arguments, threads, memory."""

from __future__ import annotations

from typing import Any

from pipelines.runtime.compat.vllm import executor_in_scheduler
from pipelines.runtime.cpus import physical_cores, threads_of_each

_BATCH_TOKENS = 4096
_CACHE_BLOCK_TOKENS = 32
_SMALL_MACHINE_CORES = 8


def cpu_arguments(max_tokens: int) -> dict[str, Any]:
    """Arguments of an engine on CPUs. Importing vLLM takes seconds.

    Args:
        max_tokens: of prompt and answer together.
    """
    executor = {} if _binds_threads() else {"distributed_executor_backend": executor_in_scheduler()}
    return {
        "enforce_eager": True,
        # A request with a seed whose prompt is prefilled in chunks ends the CPU engine of vLLM 0.29 ("CPU Generator does not use offset").
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(max_tokens, _BATCH_TOKENS),
        # Prompts share whole blocks. The default of 128 is more than half of a short few-shot prompt.
        "block_size": _CACHE_BLOCK_TOKENS,
        **executor,
    }


def cpu_environment(cache_gib: int) -> dict[str, str]:
    """Environment variables of a process with an engine. By default vLLM leaves one core idle."""
    return {"VLLM_CPU_NUM_OF_RESERVED_CPU": "0", "VLLM_CPU_KVCACHE_SPACE": str(cache_gib)}


def engine_threads(engines: int) -> dict[str, str]:
    """Environment variables that set the threads of each engine, for so many engines on this machine.

    By default it binds a thread to every core of the affinity and ignores quotas and OMP_NUM_THREADS. With `nobind` it respects the latter
    (vllm/utils/ompmultiprocessing.py of 0.29). Without a quota the default stays: one of several engines may run alone.
    """
    binding = {} if _binds_threads() else {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    return {"OMP_NUM_THREADS": str(threads_of_each(engines)), **binding}


def _binds_threads() -> bool:
    """True if the engine binds its threads to cores, for which vLLM computes in a process of its own.

    The imports of that process take 8 s or more, and threads on few cores gain nothing from being bound.
    """
    return threads_of_each(1) == physical_cores() > _SMALL_MACHINE_CORES
