"""What every part of the run file is: immutable, no unknown keys, no silent conversion."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """A part of the run file: immutable, no unknown keys, no silent conversion of text into numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
