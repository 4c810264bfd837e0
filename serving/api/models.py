"""What `/v1/models` says of each student."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from pipelines.config.serving import ServingConfig
from pipelines.students.decoding import Family
from serving.engines.select import engine_name
from serving.model_card import StudentCard
from serving.registry import Registry


class TaskField(BaseModel):
    """A field of a task, as inputs of `/v1/predict` name it."""

    name: str
    required: bool
    list: bool
    """Whether it holds several texts."""


class Model(BaseModel):
    """A model of OpenAI's list, with what the student was made from."""

    id: str
    object: Literal["model"]
    created: int = Field(description="Seconds since 1970.")
    owned_by: Literal["raystill"]
    share_percent: float | None = Field(
        default=None, description="Of a version: its share of the requests for the name."
    )
    task: str
    fields: list[TaskField]
    method: str
    rationale: bool = Field(description="Whether it writes rationales of its own.")
    family: Family
    parameters: int
    max_input_tokens: int
    engine: str = Field(description="The one that was seen to answer, or before that the one that the settings name.")
    weights: str
    fingerprint: str
    provenance: dict[str, Any]


class ModelList(BaseModel):
    """The students."""

    object: Literal["list"]
    data: list[Model]


def describe(card: StudentCard, roster: Registry, serving: ServingConfig, engine: str | None) -> Model:
    """A student as the list has it.

    Args:
        engine: the one that was seen to answer; None: the one that the settings name, which may be replaced where it cannot run.
    """
    task = roster.tasks[card.id]
    found = Model(
        id=card.id,
        object="model",
        created=card.created_s,
        owned_by="raystill",
        task=card.task.name,
        fields=[
            TaskField(name=name, required=name in task.required, list=name in task.lists)
            for name in (*task.required, *task.optional)
        ],
        method=card.method,
        rationale=card.has_rationale,
        family=card.family,
        parameters=card.parameters,
        max_input_tokens=card.max_input_tokens,
        engine=engine or engine_name(card.family, serving),
        weights=serving.weights,
        fingerprint=card.fingerprint,
        provenance=dict(card.provenance),
    )
    if card.version is not None:  # else it is not set, and left out
        found.share_percent = roster.shares(card.name)[card.version]
    return found
