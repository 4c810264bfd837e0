"""The statistics of a report. Pure functions.

In: whether each answer is right, in the order of the examples. Out: scores and comparisons:

    score([True, True, False, True])          -> Score(correct=3, total=4), accuracy 0.75, interval (0.301, 0.954)
    paired([True, True, True], [False] * 3)   -> Paired(better=3, worse=0, p_value=0.25)
    difference([True, True], [True, False])   -> Difference(value=0.5, low=-0.30, high=0.80)
    verdict([-0.30, 0.80])                    -> "no difference is shown"
    calibration([0.9, 0.9], [True, False])    -> Calibration(error=0.4, bins=(None, ..., Bin(2, 0.9, 0.5)))
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

CONFIDENCE_LEVEL = 0.95
Verdict = Literal["ahead", "behind", "no difference is shown"]


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


@dataclass(frozen=True)
class Difference:
    """By how much the accuracy of one system is above another's on the same examples; `low` and `high` bound it, all as shares."""

    value: float
    low: float
    high: float


def difference(first: Sequence[bool], second: Sequence[bool]) -> Difference:
    """The difference of two paired accuracies with its 95% interval, the adjusted Wald interval of Bonett and Price (2012).

    It counts one more example of each kind on which the two differ, so that it holds for few examples and for none that differ, where the
    usual one does not.

    Raises:
        ValueError: there are no examples, or not equally many.
    """
    from scipy.stats import norm

    if not first:
        raise ValueError("there is no difference on no examples")
    counted = paired(first, second)
    total = len(first)
    better, worse = (counted.better + 1) / (total + 2), (counted.worse + 1) / (total + 2)
    half = float(norm.ppf((1 + CONFIDENCE_LEVEL) / 2)) * math.sqrt(
        (better + worse - (better - worse) ** 2) / (total + 2)
    )
    middle = better - worse
    return Difference((counted.better - counted.worse) / total, max(middle - half, -1.0), min(middle + half, 1.0))


def verdict(interval: Sequence[float]) -> Verdict:
    """What the 95% interval of a difference shows: only one that leaves out zero shows anything.

    The one rule of reports and comparisons. McNemar's p is told beside it; near the border, where the exact test is the more cautious of
    the two, p may be above 0.05 while the interval leaves out zero.
    """
    if interval[0] > 0:
        return "ahead"
    return "behind" if interval[1] < 0 else "no difference is shown"


@dataclass(frozen=True)
class Bin:
    """The answers whose confidence is within one tenth."""

    count: int
    confidence: float
    """Mean of theirs."""
    accuracy: float
    """Share of them that is right."""


@dataclass(frozen=True)
class Calibration:
    """Whether answers are right as often as their confidence says."""

    error: float
    """Expected calibration error: the mean distance between confidence and accuracy of a bin, weighted by its answers."""
    bins: tuple[Bin | None, ...]
    """Of the confidences from 0 to 0.1, to 0.2, ..., to 1; None where there are none."""


def calibration(confidences: Sequence[float], right: Sequence[bool]) -> Calibration:
    """Reliability in ten bins of equal width and the expected calibration error (Guo et al. 2017, section 2).

    Raises:
        ValueError: there are no answers, or not as many confidences as answers.
    """
    if not right:
        raise ValueError("there is no calibration of no answers")
    groups: list[list[tuple[float, bool]]] = [[] for _ in range(_BINS)]
    for confidence, is_right in zip(confidences, right, strict=True):
        groups[min(int(confidence * _BINS), _BINS - 1)].append((confidence, is_right))
    bins = tuple(_bin(group) if group else None for group in groups)
    off = sum(b.count * abs(b.confidence - b.accuracy) for b in bins if b)
    return Calibration(off / len(right), bins)


def _bin(group: Sequence[tuple[float, bool]]) -> Bin:
    count = len(group)
    return Bin(count, math.fsum(c for c, _ in group) / count, sum(is_right for _, is_right in group) / count)


_BINS = 10
