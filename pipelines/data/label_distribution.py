"""How often the teacher gave each label, and a warning if it gave nearly all rows the same one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from pipelines.reports.format import one_line
from pipelines.storage.store import Store

_MAX_ROWS = 1_000_000
_MOST_DIFFERENT = 100
"""Labels are free if more are different, and have no distribution."""
_SHOWN = 20
_NAMED = 6
_MIN_ROWS = 20
_COLLAPSED = 0.8
_OF_GOLD = 0.1


class LabelDistribution(BaseModel):
    """Accepted train rows by label."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: int
    """Counted rows: all, or the first million."""
    labels: dict[str, int]
    """The most frequent labels first."""
    distinct: int
    warning: str | None = None

    @property
    def text(self) -> str:
        """The most frequent labels with their rows and shares, on one line."""
        common = list(self.labels.items())[:_NAMED]
        named = ", ".join(f"{one_line(label)} {count:,} ({count / self.rows:.0%})" for label, count in common)
        return f"{named}, and {self.distinct - len(common):,} more" if self.distinct > len(common) else named


def label_distribution(labels: Store, parts: Mapping[str, int]) -> LabelDistribution | None:
    """The distribution of finished labels. None if they are free texts, or there are none.

    Args:
        parts: rows by file, as the manifest names them.

    Raises:
        OSError, pyarrow.ArrowException: a file cannot be read.
    """
    import pyarrow.parquet as pq

    counts, gold, rows = Counter[str](), Counter[str](), 0
    for name in sorted(name for name in parts if name.startswith("data/")):
        if rows >= _MAX_ROWS:
            break
        table = pq.read_table(labels.path(name), filesystem=labels.fs, columns=["label", "gold"])
        rows += table.num_rows
        for column, counter in (("label", counts), ("gold", gold)):
            for pair in table.column(column).drop_null().value_counts():
                counter[pair["values"].as_py()] += pair["counts"].as_py()
        if len(counts) > _MOST_DIFFERENT:
            return None
    if not rows:
        return None
    warning = _collapse(counts, gold, rows)
    return LabelDistribution(rows=rows, labels=dict(counts.most_common(_SHOWN)), distinct=len(counts), warning=warning)


def _collapse(counts: Counter[str], gold: Counter[str], rows: int) -> str | None:
    """A warning if one label has most rows, and people gave it to clearly fewer."""
    label, count = counts.most_common(1)[0]
    if rows < _MIN_ROWS or count < _COLLAPSED * rows:
        return None
    people = ""
    if gold.total() >= _MIN_ROWS:
        if gold[label] >= (count / rows - _OF_GOLD) * gold.total():
            return None
        people = f", and people gave it to {gold[label]:,} of {gold.total():,}"
    return (
        f"the teacher gave {count:,} of {rows:,} rows the label {label!r}{people}. Look at a few rows, then change "
        "task_options.instruction and examples, or the teacher"
    )
