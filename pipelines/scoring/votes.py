"""Several answers of a student to one example -> the one that counts. A pure function.

vote(["9 - 4", None, "5", "4"], key)  -> Vote(winner=0, agreement=0.5): `9 - 4` and `5` have the same value
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Vote:
    """The outcome."""

    winner: int | None
    """The first answer with the label that won; None where no answer holds a label."""
    agreement: float
    """Share of all answers, those without a label included, that have it."""


def vote(labels: Sequence[str | None], key: Callable[[str], str]) -> Vote:
    """The label that most answers have, by what the task compares (`key`); of equally frequent ones that which was seen first.

    Args:
        labels: one for each answer, None where it holds none. There is at least one answer.
    """
    keys = [None if label is None else key(label) for label in labels]
    counts = Counter(k for k in keys if k is not None)
    if not counts:
        return Vote(None, 0.0)
    won, votes = counts.most_common(1)[0]  # of equal counts the first that was put in
    return Vote(keys.index(won), votes / len(labels))
