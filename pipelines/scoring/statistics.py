"""Statistics of reports. Pure functions.

In: whether each answer is right, in the order of the examples. Out: scores and comparisons:

    score([True, True, False, True])          -> Score(correct=3, total=4), accuracy 0.75, interval (0.301, 0.954)
    paired([True, True, True], [False] * 3)   -> Paired(better=3, worse=0, p_value=0.25)
    difference([True, True], [True, False])   -> Difference(value=0.5, low=-0.30, high=0.80)
    verdict((-0.30, 0.80))                    -> "not shown"
    calibration([0.9, 0.9], [True, False])    -> Calibration(error=0.4, bins=(None, ..., Bin(2, 0.9, 0.5)))
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

CONFIDENCE_LEVEL = 0.95
Verdict = Literal["better", "worse", "not shown"]
_BINS = 10


@dataclass(frozen=True)
class Score:
    """Right answers, and the Wilson 95% interval of the accuracy."""

    correct: int
    total: int
    low: float
    high: float

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.correct / self.total


@dataclass(frozen=True)
class Paired:
    """Two systems on the same examples. Only examples that exactly one has right tell which system is better."""

    better: int
    """Examples that only the first has right."""
    worse: int
    """Examples that only the second has right."""
    p_value: float
    """Two-sided exact McNemar test: the probability of a split at least this uneven if neither is better."""


def score(right: Sequence[bool]) -> Score:
    """Accuracy with its Wilson interval (Wilson 1927), which also holds near 0 and 1.

    Raises:
        ValueError: there are no examples.
    """
    from scipy.stats import binomtest

    if not right:
        raise ValueError("accuracy needs examples, and there are no examples")
    correct = sum(right)
    interval = binomtest(correct, len(right)).proportion_ci(confidence_level=CONFIDENCE_LEVEL, method="wilson")
    return Score(correct, len(right), float(interval.low), float(interval.high))


def paired(first: Sequence[bool], second: Sequence[bool]) -> Paired:
    """Exact McNemar test (McNemar 1947): a sign test on the examples that exactly one of the two has right.

    Raises:
        ValueError: the lengths differ.
    """
    from scipy.stats import binomtest

    better = sum(a and not b for a, b in zip(first, second, strict=True))
    worse = sum(b and not a for a, b in zip(first, second, strict=True))
    p_value = float(binomtest(better, better + worse, 0.5).pvalue) if better + worse else 1.0
    return Paired(better, worse, p_value)


@dataclass(frozen=True)
class Difference:
    """Accuracy of one system minus that of another on the same examples, with its 95% interval."""

    value: float
    low: float
    high: float
    p_value: float = 1.0
    """Two-sided, of the test that the interval inverts: below 0.05 exactly if the interval excludes zero."""


def difference(first: Sequence[bool], second: Sequence[bool]) -> Difference:
    """Difference of two paired accuracies with the adjusted Wald interval of Bonett and Price (2012).

    The interval counts one extra example for each system. It also holds for few examples, or if no example differs.

    Raises:
        ValueError: there are no examples, or the lengths differ.
    """
    from scipy.stats import norm

    if not first:
        raise ValueError("a difference needs examples, and there are no examples")
    counted = paired(first, second)
    total = len(first)
    better, worse = (counted.better + 1) / (total + 2), (counted.worse + 1) / (total + 2)
    middle = better - worse
    error = math.sqrt((better + worse - middle**2) / (total + 2))
    half = float(norm.ppf((1 + CONFIDENCE_LEVEL) / 2)) * error
    low, high = max(middle - half, -1.0), min(middle + half, 1.0)
    return Difference((counted.better - counted.worse) / total, low, high, 2 * float(norm.sf(abs(middle) / error)))


def versus(first: Sequence[bool], second: Sequence[bool]) -> dict[str, Any]:
    """`paired` and `difference` under their names in reports. Raises as they do."""
    gap = difference(first, second)
    return {**vars(paired(first, second)), "difference": gap.value, "difference_interval": (gap.low, gap.high)}


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number (Holm 1979): reject those at most 0.05, and at most 5 of 100 families have a false one.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def verdict(interval: tuple[float, float]) -> Verdict:
    """Verdict of a difference by its 95% interval: better or worse only if the interval excludes zero.

    All reports use this rule. McNemar's p is for information. The exact test is more cautious: p may be above 0.05 if the interval
    just excludes zero.
    """
    if interval[0] > 0:
        return "better"
    return "worse" if interval[1] < 0 else "not shown"


@dataclass(frozen=True)
class Bin:
    """Answers whose confidence lies in one tenth."""

    count: int
    confidence: float
    """Mean."""
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """How well confidence predicts accuracy."""

    error: float
    """Expected calibration error: mean distance between confidence and accuracy of a bin, weighted by its answers."""
    bins: tuple[Bin | None, ...]
    """(10,), for confidences from 0 to 0.1, ... 0.9 to 1. None if a bin has no answers."""


def calibration(confidences: Sequence[float], right: Sequence[bool]) -> Calibration:
    """Reliability in ten bins of equal width and the expected calibration error (Guo et al. 2017, section 2).

    Raises:
        ValueError: there are no answers, or the lengths differ.
    """
    if not right:
        raise ValueError("calibration needs answers, and there are no answers")
    groups: list[list[tuple[float, bool]]] = [[] for _ in range(_BINS)]
    for confidence, is_right in zip(confidences, right, strict=True):
        groups[min(int(confidence * _BINS), _BINS - 1)].append((confidence, is_right))
    bins = tuple(_bin(group) if group else None for group in groups)
    distance = sum(b.count * abs(b.confidence - b.accuracy) for b in bins if b)
    return Calibration(distance / len(right), bins)


def _bin(group: Sequence[tuple[float, bool]]) -> Bin:
    count = len(group)
    return Bin(count, math.fsum(c for c, _ in group) / count, sum(is_right for _, is_right in group) / count)
