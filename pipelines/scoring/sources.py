"""Where a prediction worker gets its student from. Sources are small and travel to the workers; weights do not."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

from pipelines.config import RunConfig, StudentConfig
from pipelines.errors import UserError
from pipelines.storage.manifest import require_manifest
from pipelines.storage.store import Store
from pipelines.students.decoding import Family, Student
from pipelines.students.decoding.engines import EngineChoice, open_student


class Source(Protocol):
    """A student that a worker can load."""

    @property
    def schedules(self) -> bool:
        """True if its engine probably fills each free place at once."""
        ...

    def load(self, device: str) -> Student:
        """Load the student in this process. `device`: cpu or cuda."""
        ...


@dataclass(frozen=True)
class Trained:
    """The student of a finished student artifact, in the engine that serves it."""

    folder: str
    """Path or URI."""
    engine: str = "auto"
    weights: str = "float32"
    sequences: int = 64
    """Texts that vLLM generates at the same time."""
    workers: int = 1
    """Workers that may share a machine."""
    max_new_tokens: int = 64

    @property
    def schedules(self) -> bool:
        """True for vLLM, and for `auto`: CTranslate2 answers many batches quickly, too."""
        return self.engine in ("auto", "vllm")

    def load(self, device: str) -> Student:
        """Load it in `engine`. `auto` falls back to the next engine for a model that the first one does not know."""
        store = Store(self.folder)
        family = require_manifest(store, "student", "train RUN").details["family"]
        choice = EngineChoice(self.engine, self.weights, int(device != "cpu"))
        return open_student(
            self.folder, family, choice, sequences=self.sequences, workers=self.workers,
            max_new_tokens=self.max_new_tokens,
        )  # fmt: skip


def trained(run: RunConfig, folder: str, family: Family, weights: str | None = None) -> Trained:
    """The student in a folder, with the run's engine and weights.

    Args:
        weights: other weights than those of `scored_weights`.
    """
    evaluation = run.evaluation
    weights = weights or scored_weights(run, family)
    return Trained(
        folder, _engine(run, family), weights, evaluation.batch_size, evaluation.workers, evaluation.max_new_tokens
    )


def scored_weights(run: RunConfig, family: Family) -> str:
    """`serving.weights`. float32 if the workers' devices have no others, or beside lines for other weights (`evaluation.weights`)."""
    weights = "float32" if run.evaluation.weights else run.serving.weights
    return weights if _runs(EngineChoice("auto", weights, run.evaluation.gpus_per_worker), family) else "float32"


def check_engine(run: RunConfig, family: Family) -> None:
    """Refuse an `evaluation.engine` that cannot run students of the family. Raises UserError."""
    evaluation = run.evaluation
    EngineChoice(evaluation.engine, scored_weights(run, family), evaluation.gpus_per_worker).candidates(family)


def _engine(run: RunConfig, family: Family) -> str:
    """`evaluation.engine`. auto: `serving.engine`, if it runs on the workers' devices."""
    evaluation, serving = run.evaluation, run.serving
    if evaluation.engine != "auto":
        return evaluation.engine
    if evaluation.samples.n > 1:  # only here does a draw depend on nothing but seed and input
        return "transformers"
    choice = EngineChoice(serving.engine, scored_weights(run, family), evaluation.gpus_per_worker)
    return serving.engine if _runs(choice, family) else "auto"


def _runs(choice: EngineChoice, family: Family) -> bool:
    try:
        choice.candidates(family)
    except UserError:
        return False
    return True


@dataclass(frozen=True)
class Untrained:
    """A student before its training."""

    student: StudentConfig
    seed: int
    max_input_tokens: int
    max_target_tokens: int
    tokenizer: str | None = None
    """Folder of the student's own tokenizer (`init.vocabulary`). None: the tokenizer of its model."""
    schedules = False

    def load(self, device: str) -> Student:
        """Initialise the weights as the training does."""
        from pipelines.students.init import initial_student

        own = nullcontext() if self.tokenizer is None else Store(self.tokenizer).local_copy()
        with own as folder:
            model, tokenizer = initial_student(self.student, self.seed, folder)
        return Student(
            model, tokenizer, method=self.student.method, device=device,
            max_input_tokens=self.max_input_tokens, max_target_tokens=self.max_target_tokens,
        )  # fmt: skip
