"""Which engine a student gets. The measurements behind it: tests/benchmarks/serving_engines.py.

encoder-decoder  CPU  ctranslate2   float32, int8
encoder-decoder  GPU  transformers  float32, bfloat16
decoder-only     any  vllm          float32, bfloat16; transformers where vLLM is not installed or does not know architecture or heads
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from pipelines.config.serving import ServingConfig
from pipelines.errors import UserError, last_line
from pipelines.runtime.cpus import inherited, threads_of_each, vllm_threads
from pipelines.storage.store import Store
from pipelines.students.decoding import Family, Student, check_student_files
from serving.engines.base import Engine
from serving.metrics import ReplicaMetrics
from serving.model_card import StudentCard, check_unchanged

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
        UserError: as `engine_name`, its files cannot be loaded, or are those of another student meanwhile, or vLLM does not start.
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
        except RuntimeError as error:  # of its own process, whose lines say more than what it raises here
            rule = f"vLLM does not start for it ({last_line(error)})"
            remedy = "Its lines in this replica's log say why; where memory is short, lower serving.max_batch_size"
            fewer = " or serving.students_per_replica" if serving.students_per_replica else ""
            raise UserError(
                Store(card.folder).shown(), rule, f"{remedy}{fewer}, or set serving.engine: transformers."
            ) from error
    return _batched(name, card, serving, metrics)


def cpu_environment(serving: ServingConfig, engines: Iterable[str]) -> dict[str, str]:
    """What a replica on CPUs must be told, wherever it runs: vLLM leaves one core idle by itself."""
    if "vllm" not in engines:
        return {}
    return {
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        "VLLM_CPU_KVCACHE_SPACE": str(serving.cpu_kv_cache_gib),
    }


def _vllm(card: StudentCard, serving: ServingConfig, metrics: ReplicaMetrics) -> Engine:
    from serving.engines.vllm import VllmEngine, check_cpu_attention

    store = Store(card.folder)
    check_student_files(store)
    # Counted here: what made the deployment may have run on another machine.
    threads = {} if serving.gpus_per_replica else vllm_threads(_on_one_machine(serving))
    with store.local_copy() as folder, inherited(threads):
        if not serving.gpus_per_replica:
            check_cpu_attention(str(folder))
        return VllmEngine.start(card, serving, str(folder), metrics)


def _batched(name: str, card: StudentCard, serving: ServingConfig, metrics: ReplicaMetrics) -> Engine:
    import torch

    from serving.engines.batched import BatchedEngine

    threads = threads_of_each(_on_one_machine(serving))
    if name == "ctranslate2":
        from pipelines.students.decoding.ctranslate2_student import Ctranslate2Student

        student: Student = Ctranslate2Student.open(card.folder, weights=serving.weights, threads=threads, lanes=threads)
    else:
        if not serving.gpus_per_replica:
            torch.set_num_threads(threads)
        device = "cuda" if serving.gpus_per_replica else "cpu"
        student = Student.load(card.folder, device=device, dtype=serving.weights)
    return BatchedEngine(card, serving, student, name=name, metrics=metrics)


def _on_one_machine(serving: ServingConfig) -> int:
    """How many replicas may come to share a machine's cores."""
    return min(serving.replicas.max, serving.max_replicas_per_node or serving.replicas.max)
