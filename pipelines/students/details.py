"""The `details` of a student's manifest, as types. Names and order of the fields are those on disk.

Losses are in nats per target token; the term `soft` is per example.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue, model_serializer, model_validator

from pipelines.students.decoding import Family

Losses = dict[str, int | float]
"""Measured values by name: the terms of the loss, and others such as `step` (int) or `learning_rate`."""


class _Details(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class TaskDetails(_Details):
    """The task that a student was trained for."""

    name: str
    version: str
    options: dict[str, JsonValue] = {}
    source: str | None = None
    """Code of a user's task file; None for built-in tasks."""


class TermLoss(_Details):
    """A term of the loss in the first and in the last step that had it; None if no step had it."""

    first: float | None
    last: float | None


class BestStep(_Details):
    """The measurement of the validation split with the lowest objective."""

    step: int
    objective: float
    terms: Losses


class ValidationLosses(_Details):
    """Losses on the validation split, by term. Empty without a split."""

    before: Losses = {}
    """Before the first step."""
    during: list[Losses] = []
    """In between: `step`, `objective` and the terms."""
    best: BestStep | None = None
    """Of `during`; its weights are the student's."""
    after: Losses = {}
    """Of the weights that the student has."""


class TrainingLosses(_Details):
    """On disk, terms and `validation` are keys of one object."""

    terms: dict[str, TermLoss]
    validation: ValidationLosses

    @model_validator(mode="before")
    @classmethod
    def _nest_terms(cls, data: Any) -> Any:
        if isinstance(data, dict) and "terms" not in data:
            return {"terms": {k: v for k, v in data.items() if k != "validation"}, "validation": data["validation"]}
        return data

    @model_serializer
    def _flatten_terms(self) -> dict[str, Any]:
        terms = {name: loss.model_dump() for name, loss in self.terms.items()}
        return {**terms, "validation": self.validation.model_dump()}


class TrainingDetails(_Details):
    """How a training went."""

    world_size: int
    """Workers of the last attempt."""
    zero_stage: int
    precision: str
    optimizer_bytes_per_rank: list[int]
    peak_memory_bytes_per_rank: list[int]
    steps: int
    planned_steps: int
    started_at_steps: list[int]
    """The first step of each attempt; above 0: it resumed from a checkpoint."""
    world_sizes: list[int]
    """Workers of each attempt."""
    nodes: list[list[str]]
    """For each attempt, the node of each rank."""
    damaged_checkpoints: list[str]
    """Checkpoints that were skipped, with the reason."""
    tokens_per_s: float
    padding_share: float
    """Of the tokens in micro-batches."""
    data_wait_share: float
    """Of the time of the steps."""
    token_counts: dict[str, int]
    """Fields of token_table.TokenCounts."""
    loss: TrainingLosses


class StudentDetails(_Details):
    """What a student is and how it was trained."""

    method: str
    family: Family
    task: TaskDetails
    parameters: int
    trained_parameters: int
    max_input_tokens: int
    max_target_tokens: int
    training: TrainingDetails


class LabelsProvenance(_Details):
    """`provenance.labels` of a student's manifest: the labels that it learned from."""

    fingerprint: str
    prompt_version: str | None
    teacher: dict[str, JsonValue] | None
    filters: dict[str, JsonValue] | None
    """None if the labels do not record them."""
    counts: dict[str, JsonValue]
    task: dict[str, JsonValue] | None
