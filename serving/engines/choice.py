"""Which engine a student gets. The measurements behind it: tests/benchmarks/serving_engines.py.

encoder-decoder  CPU  ctranslate2   float32, int8
encoder-decoder  GPU  transformers  float32, bfloat16
decoder-only     any  vllm          float32, bfloat16; transformers where vLLM is not installed or does not know the architecture
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from pipelines.artifacts import Store
from pipelines.config_serving import ServingConfig
from pipelines.decode import Family, Student
from pipelines.errors import UserError
from serving.cards import StudentCard, check_unchanged
from serving.engines.base import Engine
from serving.metrics import ReplicaMetrics

_logger = logging.getLogger(__name__)
_OFFERED: dict[tuple[str, Family], tuple[str, ...]] = {
    ("transformers", "encoder-decoder"): ("float32", "bfloat16"),
    ("transformers", "decoder-only"): ("float32", "bfloat16"),
    ("ctranslate2", "encoder-decoder"): ("float32", "int8"),
    ("vllm", "decoder-only"): ("float32", "bfloat16"),
}


def engine_name(family: Family, serving: ServingConfig) -> str:
    """The engine for a family, by the serving section alone.

    Raises:
        UserError: the engine that is asked for does not run this family, or not with these weights.
    """
    name = serving.engine
    if name == "auto":
        name = "vllm" if family == "decoder-only" else "transformers" if serving.gpus_per_replica else "ctranslate2"
        if name == "ctranslate2" and serving.weights == "bfloat16":
            name = "transformers"
    offered = _OFFERED.get((name, family))
    if offered is None:
        others = ", ".join(n for n, f in _OFFERED if f == family)
        raise UserError(
            f"serving.engine {name}", f"it does not run {family} students", f"Set auto, or one of {others}."
        )
    if name == "ctranslate2" and serving.gpus_per_replica:
        rule = "it is built for CUDA 12, and torch's own libraries are of CUDA 13"
        raise UserError("serving.engine ctranslate2", rule, "Set transformers, or gpus_per_replica: 0.")
    if serving.weights not in offered:
        rule = f"{name} has no such weights for {family} students"
        raise UserError(f"serving.weights {serving.weights}", rule, f"Set one of {', '.join(offered)}.")
    return name


def draws_with_seeds(family: Family, serving: ServingConfig) -> bool:
    """Whether the same seed gives the same drawn text again."""
    return engine_name(family, serving) != "ctranslate2"


def start_engine(card: StudentCard, serving: ServingConfig, metrics: ReplicaMetrics) -> Engine:
    """Load a student in this process.

    Raises:
        UserError: as `engine_name`, its files cannot be loaded, or are those of another student meanwhile.
    """
    check_unchanged(card)
    name = engine_name(card.family, serving)
    if name == "vllm":
        try:
            return _vllm(card, serving, metrics)
        except (ImportError, ValueError) as error:
            if serving.engine == "vllm":
                raise UserError(
                    "serving.engine vllm", str(error), "Set serving.engine: auto or transformers."
                ) from error
            _logger.warning("%s: transformers in place of vLLM (%s)", card.name, error)
            name = "transformers"
    return _batched(name, card, serving, metrics)


def cpu_environment(serving: ServingConfig, engines: Iterable[str]) -> dict[str, str]:
    """What a replica on CPUs must be told: Ray gives each actor one thread, vLLM leaves one core idle."""
    if "vllm" not in engines:
        return {}
    return {
        "OMP_NUM_THREADS": str(threads_per_replica(serving.replicas.max)),
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        "VLLM_CPU_KVCACHE_SPACE": str(serving.cpu_kv_cache_gib),
    }


def _vllm(card: StudentCard, serving: ServingConfig, metrics: ReplicaMetrics) -> Engine:
    from serving.engines.vllm import VllmEngine

    with Store(card.folder).local_copy() as folder:
        return VllmEngine.start(card, serving, str(folder), metrics)


def _batched(name: str, card: StudentCard, serving: ServingConfig, metrics: ReplicaMetrics) -> Engine:
    import torch

    from serving.engines.batched import BatchedEngine

    threads = threads_per_replica(serving.replicas.max)
    if name == "ctranslate2":
        from pipelines.decode.converted import ConvertedStudent

        student: Student = ConvertedStudent.open(card.folder, weights=serving.weights, threads=threads, lanes=threads)
    else:
        if not serving.gpus_per_replica:
            torch.set_num_threads(threads)
        device = "cuda" if serving.gpus_per_replica else "cpu"
        student = Student.load(card.folder, device=device, dtype=serving.weights)
    return BatchedEngine(card, serving, student, name=name, metrics=metrics)


def threads_per_replica(max_replicas: int) -> int:
    """Compute threads of a CPU replica: the physical cores that it may use, shared by all replicas there may be."""
    return max(1, _physical_cores(os.sched_getaffinity(0)) // max_replicas)


def _physical_cores(logical: set[int]) -> int:
    """Cores behind some logical CPUs: two hardware threads of one core compute no faster than one."""
    try:
        topology = [Path(f"/sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list").read_text() for n in logical]
    except OSError:
        return len(logical)
    return len(set(topology))
