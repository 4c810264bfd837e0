"""The statistics of a report. Pure functions.

In: whether each answer is right, in the order of the examples. Out: scores and comparisons:

    score([True, True, False, True])          -> Score(correct=3, total=4), accuracy 0.75, interval (0.301, 0.954)
    paired([True, True, True], [False] * 3)   -> Paired(better=3, worse=0, p_value=0.25)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE_LEVEL = 0.95


@dataclass(frozen=True)
class Score:
    """How many of the examples are right. `low` and `high` bound the accuracy: the Wilson 95% interval, as shares."""

    correct: int
    total: int
    low: float
    high: float

    @property
    def accuracy(self) -> float:
        """Share of the examples that is right."""
        return self.correct / self.total


@dataclass(frozen=True)
class Paired:
    """Two systems on the same examples. Where both are right or both wrong says nothing about which is better."""

    better: int
    """Examples that only the first has right."""
    worse: int
    """Examples that only the second has right."""
    p_value: float
    """Two-sided exact McNemar test: how likely so uneven a split is if neither is better."""


def score(right: Sequence[bool]) -> Score:
    """Accuracy with its Wilson interval (Wilson 1927), which holds near 0 and 1 too, where the usual one does not.

    Raises:
        ValueError: there are no examples.
    """
    from scipy.stats import binomtest

    if not right:
        raise ValueError("there is no accuracy of no examples")
    correct = sum(right)
    interval = binomtest(correct, len(right)).proportion_ci(confidence_level=CONFIDENCE_LEVEL, method="wilson")
    return Score(correct, len(right), float(interval.low), float(interval.high))


def paired(first: Sequence[bool], second: Sequence[bool]) -> Paired:
    """The exact McNemar test (McNemar 1947): a sign test on the examples that exactly one of the two has right.

    Raises:
        ValueError: the two are not over the same number of examples.
    """
    from scipy.stats import binomtest

    better = sum(a and not b for a, b in zip(first, second, strict=True))
    worse = sum(b and not a for a, b in zip(first, second, strict=True))
    p_value = float(binomtest(better, better + worse, 0.5).pvalue) if better + worse else 1.0
    return Paired(better, worse, p_value)
