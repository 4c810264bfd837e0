"""Selects a student's engine. Measurements behind the order: docs/benchmarks.md."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from itertools import pairwise

from pipelines.config.serving import ServingConfig
from pipelines.errors import UserError
from pipelines.students.decoding import Family
from serving.engines.base import Engine, EngineUnsuitableError
from serving.engines.batched import Ctranslate2Engine, TransformersEngine
from serving.engines.vllm import VllmEngine
from serving.metrics import ReplicaMetrics
from serving.model_card import StudentCard, check_unchanged

_logger = logging.getLogger(__name__)
ENGINES: dict[str, type[Engine]] = {
    engine.name: engine for engine in (VllmEngine, Ctranslate2Engine, TransformersEngine)
}
"""By name. `serving.engine: auto` takes the first that runs the student's family with these weights on this device."""


def engine_name(family: Family, serving: ServingConfig) -> str:
    """The engine for a family. Raises UserError if the configured engine does not run it, or not with these weights."""
    return _candidates(family, serving)[0].name


def draws_with_seeds(family: Family, serving: ServingConfig) -> bool:
    """True if the same seed gives the same sampled text again."""
    return _candidates(family, serving)[0].draws_with_seeds


def start_engine(card: StudentCard, serving: ServingConfig, metrics: ReplicaMetrics) -> Engine:
    """Load a student in this process. If `auto` selects an engine that does not know the model, the next engine loads it.

    Raises:
        UserError: as `engine_name`; the files cannot be loaded or are now those of another student; or the engine does not start.
    """
    check_unchanged(card)
    candidates = _candidates(card.family, serving)
    for engine, fallback in pairwise(candidates):
        try:
            return engine.load(card, serving, metrics)
        except EngineUnsuitableError as error:
            _logger.warning("%s: %s instead of %s (%s)", card.name, fallback.name, engine.name, error)
    last = candidates[-1]
    try:
        return last.load(card, serving, metrics)
    except EngineUnsuitableError as error:
        remedy = "Set serving.engine: auto, or another engine."
        raise UserError(f"serving.engine {last.name}", str(error), remedy) from error


def cpu_environment(serving: ServingConfig, engines: Iterable[str]) -> dict[str, str]:
    """Environment variables of a replica on CPUs with these engines."""
    variables: dict[str, str] = {}
    for name in engines:
        variables |= ENGINES[name].cpu_environment(serving)
    return variables


def _candidates(family: Family, serving: ServingConfig) -> list[type[Engine]]:
    """The engines that may run the student, in order of preference; at least one."""
    if serving.engine != "auto":
        engine = ENGINES[serving.engine]
        _check(engine, family, serving)
        return [engine]
    usable = [e for e in ENGINES.values() if family in e.weights and e.device_problem(serving) is None]
    if found := [engine for engine in usable if serving.weights in engine.weights[family]]:
        return found
    weights = sorted({weights for engine in usable for weights in engine.weights[family]})
    device = "GPUs" if serving.gpus_per_replica else "CPUs"
    rule = f"no engine has these weights for {family} students on {device}"
    raise UserError(f"serving.weights {serving.weights}", rule, f"Set one of {', '.join(weights)}.")


def _check(engine: type[Engine], family: Family, serving: ServingConfig) -> None:
    if family not in engine.weights:
        others = ", ".join(other.name for other in ENGINES.values() if family in other.weights)
        rule = f"it does not run {family} students"
        raise UserError(f"serving.engine {engine.name}", rule, f"Set auto, or one of {others}.")
    if problem := engine.device_problem(serving):
        raise UserError(f"serving.engine {engine.name}", problem, "Set auto, or gpus_per_replica: 0.")
    if serving.weights not in engine.weights[family]:
        rule = f"{engine.name} has no such weights for {family} students"
        remedy = f"Set one of {', '.join(engine.weights[family])}."
        raise UserError(f"serving.weights {serving.weights}", rule, remedy)
