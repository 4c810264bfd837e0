"""The held-out rows that can be scored, and how much they can show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from cluster.planning.model import ScoredRows
from pipelines.config import RunConfig
from pipelines.data.heldout import has_heldout_files, is_validation, validation_share
from pipelines.tasks import Example

_Z = 1.96


def scored_rows(run: RunConfig, rows: Mapping[str, int], examples: Mapping[str, Sequence[Example]]) -> ScoredRows:
    """Rows of the test file, or of the share of train that is scored instead; only those with a gold label are.

    Args:
        rows: of each split.
        examples: of each split, those that were read: all, or the first or some of them.
    """
    split, share = (
        ("heldout", 1.0) if has_heldout_files(run.corpus) else ("train", validation_share(run.corpus.validation))
    )
    read = examples[split]
    held_out = [one for one in read if split == "heldout" or is_validation(one.id, share)]
    with_gold = sum(one.gold is not None for one in held_out)
    counted = len(read) == rows[split]
    if not counted:
        # The share with gold among all rows that were read is better known than that among the few held out.
        gold_share = sum(one.gold is not None for one in read) / max(len(read), 1)
        with_gold = round(gold_share * share * rows[split])
    count = len(held_out) if counted else round(share * rows[split])
    return ScoredRows(rows=count, with_gold=with_gold, counted=counted, half_width=half_width(with_gold))


def half_width(count: int) -> float | None:
    """Half of Wilson's 95% interval of an accuracy of 50% on so many rows, which has the widest. None for no rows."""
    return _Z / (2 * math.sqrt(count + _Z**2)) if count else None
