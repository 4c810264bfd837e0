"""Which engine answers for a student: the same rules for evaluation and serving.

`auto` takes the first engine that runs the student's family with the wanted weights on the device.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from pipelines.errors import UserError
from pipelines.students.decoding.tokens import Family
from pipelines.students.decoding.transformers_student import Student

Opened = TypeVar("Opened")
_logger = logging.getLogger(__name__)


class EngineUnsuitableError(Exception):
    """The engine cannot run this student; another engine may."""


@dataclass(frozen=True)
class EngineFacts:
    """What an engine runs."""

    weights: Mapping[Family, tuple[str, ...]]
    """Families that it runs, each with the weights that it takes."""
    most_gpus: int = 16
    gpu_problem: str = ""
    """Why it does not compute on more."""


FACTS: dict[str, EngineFacts] = {
    "vllm": EngineFacts({"decoder-only": ("float32", "bfloat16", "float16")}),
    "ctranslate2": EngineFacts(
        {"encoder-decoder": ("float32", "int8")}, 0, "it is built for CUDA 12, and torch's libraries are of CUDA 13"
    ),
    # T5's activations leave the range of float16.
    "transformers": EngineFacts(
        {"encoder-decoder": ("float32", "bfloat16"), "decoder-only": ("float32", "bfloat16", "float16")},
        1,
        "it computes on one GPU",
    ),
}
"""By name, in the order of preference."""


@dataclass(frozen=True)
class EngineChoice:
    """The settings that decide the engine, and the run file's keys for messages."""

    engine: str
    weights: str
    gpus: int
    section: str = "evaluation"
    """Section of `engine` and of the number of GPUs."""

    def candidates(self, family: Family) -> list[str]:
        """The engines that may run a student of the family, in order of preference; at least one.

        Raises:
            UserError: the engine does not run the family, or not on this device, or not with these weights.
        """
        if self.engine != "auto":
            self._check(family)
            return [self.engine]
        usable = {name: one for name, one in FACTS.items() if family in one.weights and self.gpus <= one.most_gpus}
        if found := [name for name, one in usable.items() if self.weights in one.weights[family]]:
            return found
        if not usable:
            rule = f"no engine computes {family} students on {self.gpus} GPUs"
            raise UserError(f"{self._gpus_key} {self.gpus}", rule, f"Set {self._gpus_key}: 1.")
        weights = sorted({weights for one in usable.values() for weights in one.weights[family]})
        rule = f"no engine has these weights for {family} students on {'GPUs' if self.gpus else 'CPUs'}"
        raise UserError(f"serving.weights {self.weights}", rule, f"Set one of {', '.join(weights)}.")

    @property
    def _gpus_key(self) -> str:
        return f"{self.section}.{'gpus_per_replica' if self.section == 'serving' else 'gpus_per_worker'}"

    def _check(self, family: Family) -> None:
        engine, key = FACTS[self.engine], f"{self.section}.engine {self.engine}"
        if family not in engine.weights:
            others = ", ".join(name for name, other in FACTS.items() if family in other.weights)
            raise UserError(key, f"it does not run {family} students", f"Set auto, or one of {others}.")
        if self.gpus > engine.most_gpus:
            raise UserError(key, engine.gpu_problem, f"Set auto, or {self._gpus_key}: {engine.most_gpus}.")
        if self.weights not in engine.weights[family]:
            rule = f"{self.engine} has no such weights for {family} students"
            remedy = f"Set one of {', '.join(engine.weights[family])}."
            raise UserError(f"serving.weights {self.weights}", rule, remedy)


def open_first(names: list[str], load: Callable[[str], Opened], key: str) -> Opened:
    """Load a student by the name of an engine: the first of these that knows its model.

    Args:
        key: the run file's key, for messages.

    Raises:
        UserError: from `load`, or if no engine knows the model.
    """
    for name, fallback in pairwise(names):
        try:
            return load(name)
        except EngineUnsuitableError as error:
            _logger.warning("%s instead of %s (%s)", fallback, name, error)
    try:
        return load(names[-1])
    except EngineUnsuitableError as error:
        raise UserError(f"{key} {names[-1]}", str(error), f"Set {key}: auto, or another engine.") from error


def open_student(
    folder: str, family: Family, choice: EngineChoice, *, sequences: int, workers: int, max_new_tokens: int
) -> Student:
    """Load a finished student in the engine of the choice.

    Args:
        sequences: texts that the engine generates at the same time.
        workers: processes that share this machine's cores.
        max_new_tokens: longest answer, if it is longer than the student's targets.

    Raises:
        UserError: as `EngineChoice.candidates` and `open_first`, or the files cannot be loaded.
    """
    from pipelines.runtime.cpus import threads_of_each

    def load(name: str) -> Student:
        if name == "vllm":
            from pipelines.students.decoding.vllm_student import VllmStudent

            return VllmStudent.open(
                folder, weights=choice.weights, gpus=choice.gpus, sequences=sequences, workers=workers,
                max_new_tokens=max_new_tokens,
            )  # fmt: skip
        if name == "ctranslate2":
            from pipelines.students.decoding.ctranslate2_student import ConversionError, Ctranslate2Student

            try:
                return Ctranslate2Student.open(folder, weights=choice.weights, threads=threads_of_each(workers))
            except (ConversionError, ImportError) as error:
                raise EngineUnsuitableError(str(error)) from error
        return Student.load(folder, device="cuda" if choice.gpus else "cpu", dtype=choice.weights)

    return open_first(choice.candidates(family), load, f"{choice.section}.engine")
