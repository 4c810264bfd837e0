"""The run file's `corpus`: where the examples are, and how their columns are called."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipelines.config.base import Section, Share


class CorpusConfig(Section):
    """Where the examples are, and what their columns are called."""

    train: str | list[str]
    """File, list, glob, folder or URI of JSON Lines, CSV or Parquet."""
    validation: Share | str = 0.1
    """Share of train held out by hash of the id, or a file of its own."""
    test: str | list[str] | None = None
    """Held out: answered by the teacher and scored, never trained on. None: the validation split is scored."""
    fields: dict[str, str] = {}
    """The task's name for a field -> this corpus' column. Fields that are not named have the task's own name."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """First N rows of each file set, for a try."""
