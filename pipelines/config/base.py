"""What the sections of a run file share."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""What numpy and torch take."""
LossyWeights = Literal["bfloat16", "float16", "int8"]
"""Smaller and faster than the float32 that a student is scored in. They may change answers."""


class Section(BaseModel):
    """A section: immutable, without unknown keys, and without silent conversion of text into numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ReplicasConfig(Section):
    """Least and greatest number of replicas at a time."""

    min: Annotated[int, Field(ge=0)] = 1
    max: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}; lower min or raise max")
        return self
