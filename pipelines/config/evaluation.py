"""The run file's `evaluation`: how held-out examples are answered."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipelines.config.base import LossyWeights, Section


class SamplesConfig(Section):
    """How many answers a student gives to each held-out example, and how they are sampled."""

    n: Annotated[int, Field(ge=1, le=256)] = 1
    """1: the greedy answer. More: samples, of which the most frequent label counts; temperature and seed apply to them only."""
    temperature: Annotated[float, Field(gt=0.0, le=5.0)] = 0.7
    seed: int = 0


class EvaluationConfig(Section):
    """How held-out examples are answered."""

    batch_size: Annotated[int, Field(ge=1)] = 64
    """Inputs that a worker answers at the same time."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 64
    """Of an answer. A longer one is cut."""
    workers: Annotated[int, Field(ge=1)] = 1
    """Processes that answer side by side."""
    gpus_per_worker: Literal[0, 1] = 0
    engine: Literal["auto", "transformers", "ctranslate2", "vllm"] = "auto"
    """auto: the engine that serves, if it runs on these devices (`serving.engine`, and the order of docs/serve.md)."""
    constrained: bool = False
    """Score the student also with its answers limited to the closed label set, as `serving.constrained` serves it. `compare` scores all
    students so."""
    samples: SamplesConfig = SamplesConfig()
    weights: list[LossyWeights] = []
    """Score the student in these weights too: what `serving.weights` would cost. `compare` ignores them."""

    @model_validator(mode="after")
    def _constrained_answers_are_greedy(self) -> Self:
        if self.constrained and self.samples.n > 1:
            raise ValueError("constrained: true limits greedy answers; set samples.n to 1, or constrained to false")
        return self

    @model_validator(mode="after")
    def _weights_are_compared_greedily(self) -> Self:
        if len(set(self.weights)) < len(self.weights):
            raise ValueError(f"weights {self.weights} has a duplicate; remove it")
        if self.weights and self.samples.n > 1:
            raise ValueError(
                f"weights {self.weights} are compared by greedy answers; set samples.n to 1, or remove weights"
            )
        return self
