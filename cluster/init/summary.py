"""What `raystill init` found, for people and as JSON."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict

from pipelines.reports.format import one_line

_LABELS_SHOWN = 8


class FoundColumn(BaseModel):
    """A column that the task reads."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    field: str
    """The task's name."""
    column: str
    values: int


class InitSummary(BaseModel):
    """The corpus, the guess, and the files that were written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    corpus: str
    files: int
    format: str
    rows: int
    whole: bool
    """False: the corpus has more rows than these, which were looked at."""
    task: str
    fields: list[FoundColumn]
    other_columns: list[str]
    with_gold: int
    labels: dict[str, int]
    """Gold label -> rows, the most frequent first. Empty for free answers."""
    distinct_labels: int
    repeated_ids: int
    unreadable: int
    warnings: list[str]
    estimate: str | None
    """Of labelling and training, from `raystill plan`. None: no run file was written."""
    written: list[str]

    def lines(self) -> Iterator[str]:
        """The same in words."""
        more = "" if self.whole else " (the first ones; the corpus has more)"
        several = f", {self.files:,} files" if self.files > 1 else ""
        yield f"{self.corpus}: {self.format}{several}, {self.rows:,} rows{more}"
        for found in self.fields:
            missing = "" if found.values == self.rows else f", in {found.values:,} rows"
            yield f"  {found.field:10} {found.column}{missing}"
        if self.other_columns:
            yield f"  not read   {', '.join(self.other_columns[:_LABELS_SHOWN])}"
        yield f"  task       {self.task}"
        share = self.with_gold / max(self.rows, 1)
        if self.distinct_labels and not self.labels:
            different = "all the same" if self.distinct_labels == 1 else f"{self.distinct_labels:,} different ones"
            yield f"  labels     {self.with_gold:,} rows have one ({share:.1%}), {different}"
        if self.labels:
            shown = ", ".join(
                f"{one_line(label)} {count:,}" for label, count in list(self.labels.items())[:_LABELS_SHOWN]
            )
            others = len(self.labels) - _LABELS_SHOWN
            yield f"  labels     {self.with_gold:,} rows have one ({share:.1%}): {shown}{f', and {others} more' if others > 0 else ''}"
        for warning in self.warnings:
            yield f"warning: {warning}"
        if self.estimate:
            yield f"estimate: {self.estimate}"
