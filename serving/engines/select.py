"""Selects a student's engine. Measurements behind the order: docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Iterable

from pipelines.config.serving import ServingConfig
from pipelines.errors import UserError
from pipelines.students.decoding import Family
from pipelines.students.decoding.engines import EngineChoice, open_first
from serving.engines.base import Engine
from serving.engines.batched import Ctranslate2Engine, TransformersEngine
from serving.engines.vllm import VllmEngine
from serving.metrics import ReplicaMetrics
from serving.model_card import StudentCard, check_unchanged

ENGINES: dict[str, type[Engine]] = {
    engine.name: engine for engine in (VllmEngine, Ctranslate2Engine, TransformersEngine)
}
"""By name. What they run, in the order of preference: FACTS in pipelines/students/decoding/engines.py."""


def engine_name(family: Family, serving: ServingConfig) -> str:
    """The engine for a family. Raises UserError if the configured engine does not run it, or not with these weights."""
    name = _candidates(family, serving)[0]
    if serving.engine_args and name != "vllm":
        value = f"serving.engine_args {', '.join(serving.engine_args)}"
        raise UserError(value, f"{name} runs {family} students, and only vLLM has them", "Remove them.")
    return name


def draws_with_seeds(family: Family, serving: ServingConfig) -> bool:
    """True if the same seed gives the same sampled text again."""
    return ENGINES[_candidates(family, serving)[0]].draws_with_seeds


def start_engine(card: StudentCard, serving: ServingConfig, metrics: ReplicaMetrics) -> Engine:
    """Load a student in this process. If `auto` selects an engine that does not know the model, the next engine loads it.

    Raises:
        UserError: as `engine_name`; the files cannot be loaded or are now those of another student; or the engine does not start.
    """
    check_unchanged(card)
    return open_first(
        _candidates(card.family, serving), lambda name: ENGINES[name].load(card, serving, metrics), "serving.engine"
    )


def cpu_environment(serving: ServingConfig, engines: Iterable[str]) -> dict[str, str]:
    """Environment variables of a replica on CPUs with these engines."""
    variables: dict[str, str] = {}
    for name in engines:
        variables |= ENGINES[name].cpu_environment(serving)
    return variables


def _candidates(family: Family, serving: ServingConfig) -> list[str]:
    return EngineChoice(serving.engine, serving.weights, serving.gpus_per_replica, "serving").candidates(family)
