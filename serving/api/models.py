"""`GET /v1/models`: the students, with what each was made from."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field, JsonValue

from pipelines.config.serving import ServingConfig
from pipelines.students.decoding import Family
from serving.engines.select import engine_name
from serving.model_card import StudentCard
from serving.registry import Registry


class TaskField(BaseModel):
    """A field of a task, as the inputs of `/v1/predict` name it."""

    name: str
    required: bool
    list: bool
    """True if it holds several texts."""


class Model(BaseModel):
    """A model of OpenAI's list, with what the student was made from."""

    id: str
    object: Literal["model"]
    created: int = Field(description="Seconds since 1970.")
    owned_by: Literal["raystill"]
    share_percent: float | None = Field(
        default=None, description="Only for a version: its share of the requests for the name."
    )
    task: str
    fields: list[TaskField]
    method: str
    rationale: bool = Field(description="True if it was trained to write rationales.")
    family: Family
    parameters: int
    max_input_tokens: int
    engine: str = Field(
        description="The engine that answered last. Before the first answer: the one that the settings name."
    )
    weights: str = Field(description="Precision in which the engine computes.")
    constrained: bool = Field(
        default=False, description="True if `/v1/predict` answers only with labels of the input's closed set."
    )
    fingerprint: str = Field(description="Hash of the settings and inputs of the training.")
    content: str = Field(
        description="Hash of the student's files: what is served. A student that is trained again has another one."
    )
    provenance: dict[str, JsonValue]


class ModelList(BaseModel):
    """The students."""

    object: Literal["list"]
    data: list[Model]


def describe(card: StudentCard, registry: Registry, serving: ServingConfig, engine: str | None) -> Model:
    """A student's entry in the list.

    Args:
        engine: the engine that answered last. None: no answer yet; an engine of the settings may still fall back to another one.
    """
    task = registry.tasks[card.id]
    model = Model(
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
        constrained=serving.constrained,
        fingerprint=card.fingerprint,
        content=card.content,
        provenance={key: _without_paths(value) for key, value in card.provenance.items()},
    )
    if card.version is not None:  # otherwise it stays unset, and the response leaves it out
        model.share_percent = registry.shares(card.name)[card.version]
    return model


def _without_paths(value: JsonValue) -> JsonValue:
    """The value with the names of files and folders instead of their absolute paths, which are nobody's business here."""
    if isinstance(value, dict):
        return {key: _without_paths(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_paths(inner) for inner in value]
    return value.rstrip("/").rpartition("/")[2] if isinstance(value, str) and value.startswith(("/", "~/")) else value
