"""Types of the `details` of a student's manifest. Names and order of the fields are those on disk.

Losses are in nats per target token; the term `soft` is per example.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_serializer, model_validator

from pipelines.storage.fingerprint import FileHash
from pipelines.students.decoding import Family

Losses = dict[str, int | float]
"""Measured values by name: terms of the loss, and others such as `step` (int) or `learning_rate`."""


_Value = TypeVar("_Value")
_Recorded = Annotated[_Value | None, Field(exclude_if=lambda value: value is None)]
"""Students of 0.1 do not record it."""


class _Details(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class TaskDetails(_Details):
    """Task of a student."""

    name: str
    version: str
    options: dict[str, object] = {}
    source: str | None = None
    """Code of a user's task file. None for built-in tasks."""


class TermLoss(_Details):
    """A term of the loss in the first and last step that had it. None if no step had it."""

    first: float | None
    last: float | None


class BestStep(_Details):
    """Measurement on the validation split with the lowest objective."""

    step: int
    objective: float
    terms: Losses


class ValidationLosses(_Details):
    """Losses on the validation split, by term. Empty without a split."""

    before: Losses = {}
    """Before the first step."""
    during: list[Losses] = []
    """Measurements during training: `step`, `objective` and the terms."""
    best: BestStep | None = None
    """Entry of `during` whose weights the student has."""
    after: Losses = {}
    """With the student's weights."""


class TrainingLosses(_Details):
    """Losses of a training. On disk, terms and `validation` are keys of one object."""

    terms: dict[str, TermLoss]
    validation: ValidationLosses

    @model_validator(mode="before")
    @classmethod
    def _nest_terms(cls, data: object) -> object:
        if isinstance(data, dict) and "terms" not in data:
            return {"terms": {k: v for k, v in data.items() if k != "validation"}, "validation": data["validation"]}
        return data

    @model_serializer
    def _flatten_terms(self) -> dict[str, object]:
        terms = {name: loss.model_dump() for name, loss in self.terms.items()}
        return {**terms, "validation": self.validation.model_dump()}


class TrainingDetails(_Details):
    """Record of a training."""

    world_size: int
    """Workers of the last attempt."""
    zero_stage: int
    precision: str
    optimizer_bytes_per_rank: list[int]
    peak_memory_bytes_per_rank: list[int]
    steps: int
    planned_steps: int
    started_at_steps: list[int]
    """First step of each attempt. Above 0: the attempt resumed from a checkpoint."""
    world_sizes: list[int]
    """Workers of each attempt."""
    nodes: list[list[str]]
    """Node of each rank, for each attempt."""
    damaged_checkpoints: list[str]
    """Skipped checkpoints, with the reason."""
    tokens_per_s: float
    padding_share: float
    """Share of padding in the tokens of micro-batches."""
    data_wait_share: float
    """Share of the steps' time spent waiting for data."""
    token_counts: dict[str, int]
    """Fields of token_table.TokenCounts."""
    loss: TrainingLosses
    tokens: _Recorded[int] = None
    """Unpadded tokens of all steps."""
    examples_seen: _Recorded[int] = None
    """Examples of all steps. An example counts once for each pass."""
    seconds: _Recorded[float] = None
    """Of all steps, over all attempts."""
    export_difference: _Recorded[float] = None
    """Largest difference of a logit between the trained and the exported student, in float32, for a few examples."""
    batch_plan: _Recorded[int] = None
    """Version of the batch plan (train/identity.py)."""


class StudentDetails(_Details):
    """Description of a student and its training."""

    method: str
    family: Family
    task: TaskDetails
    parameters: int
    trained_parameters: int
    max_input_tokens: int
    max_target_tokens: int
    training: TrainingDetails
    files: Annotated[dict[str, FileHash], Field(exclude_if=lambda files: not files)] = {}
    """Size and SHA-256 of each file that engines read. Empty for students of 0.1."""


class LabelsProvenance(_Details):
    """`provenance.labels` of a student's manifest: its training labels."""

    fingerprint: str
    prompt_version: str | None
    teacher: dict[str, JsonValue] | None
    filters: dict[str, JsonValue] | None
    """None if the labels do not record them."""
    counts: dict[str, JsonValue]
    task: dict[str, JsonValue] | None
