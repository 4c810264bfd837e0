"""What a method's loss is made of: terms, each a mean over what it counts, with weights that sum to 1.

term        counts               is
label       label tokens         cross entropy
rationale   rationale tokens     cross entropy
text        text tokens          cross entropy
soft        examples             divergence of the student's distribution over labels from the teacher's
divergence  text tokens          divergence of the student's distribution over tokens from the teacher's

step-by-step, w = 0.3:  loss = 0.7 x label + 0.3 x rationale
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from pipelines.config import StudentConfig
from pipelines.methods import METHODS

TERMS = ("label", "rationale", "text", "soft", "divergence")
PARTS = TERMS[:3]
"""The terms that a sequence's own tokens count in."""


def term_weights(student: StudentConfig) -> dict[str, float]:
    """The weight of each term of the student's method, those of weight 0 left out."""
    method = METHODS[student.method]
    share = float(getattr(student, method.weight_key)) if method.weight_key else 0.0
    weights = dict(zip(method.terms, (1.0 - share, share), strict=False))
    return {term: weight for term, weight in weights.items() if weight > 0.0}


def objective(weights: Mapping[str, float], means: Mapping[str, float]) -> float:
    """The loss: the weighted sum of the terms that there are.

    >>> objective({"label": 0.75, "rationale": 0.25}, {"label": 2.0, "rationale": 4.0})
    2.5
    """
    return sum(weight * means[term] for term, weight in weights.items() if term in means)


def is_spike(before: Sequence[float], loss: float, factor: float) -> bool:
    """Whether a loss is more than `factor` times the median of the last losses. Never, while there are fewer than 10.

    >>> is_spike([1.0] * 10, 3.5, 3.0), is_spike([1.0] * 9, 3.5, 3.0)
    (True, False)
    """
    recent = before[-SPIKE_WINDOW:]
    return len(recent) >= _SPIKE_LEAST and loss > factor * statistics.median(recent)


SPIKE_WINDOW = 50
_SPIKE_LEAST = 10
