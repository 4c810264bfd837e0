"""The run file's `corpus`: where the examples are, and the names of their columns."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from pipelines.config.base import Section, Share


class CorpusConfig(Section):
    """Where the examples are, and the names of their columns."""

    train: str | list[str]
    """File, list, glob, folder or URI of JSON Lines, CSV or Parquet."""
    validation: Share | str = 0.1
    """Share of train, held out by hash of the id; or a file of its own."""
    test: str | list[str] | None = None
    """Held out: the teacher answers it and students are scored on it, never trained. None: the validation split is scored."""
    fields: dict[str, str] = {}
    """The task's name of a field -> this corpus' column. Default: the same name."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Read only the first N rows of each file set, for a trial."""

    @field_validator("validation", mode="before")
    @classmethod
    def _share_or_file(cls, value: object) -> object:
        if not isinstance(value, str) and (
            isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1
        ):
            raise ValueError("must be a share from 0 to 1, such as 0.1, or a file")
        return value
