"""Terms of the losses, each a mean over what it counts, with weights that sum to 1.

term        counts               value
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
"""The terms that count a sequence's own tokens."""
SPIKE_WINDOW = 50
_MIN_SPIKE_STEPS = 10


def term_weights(student: StudentConfig) -> dict[str, float]:
    """The weight of each term of the student's method, without terms of weight 0."""
    method = METHODS[student.method]
    share = float(getattr(student, method.weight_key)) if method.weight_key else 0.0
    weights = dict(zip(method.terms, (1.0 - share, share), strict=False))
    return {term: weight for term, weight in weights.items() if weight > 0.0}


def objective(weights: Mapping[str, float], means: Mapping[str, float]) -> float:
    """The loss: the weighted sum of the terms in `means`.

    >>> objective({"label": 0.75, "rationale": 0.25}, {"label": 2.0, "rationale": 4.0})
    2.5
    """
    return sum(weight * means[term] for term, weight in weights.items() if term in means)


def criterion(choose_by: str, weights: Mapping[str, float], measured: Mapping[str, float]) -> float:
    """What the best measurement of the validation split minimises (`training.choose_by`).

    >>> criterion("label-loss", {"label": 0.5, "rationale": 0.5}, {"label": 2.0, "rationale": 4.0})
    2.0
    """
    if choose_by == "accuracy":
        return 1.0 - measured["accuracy"]
    return measured["label"] if "label" in measured else objective(weights, measured)


def step_scales(weights: Mapping[str, float], counts: Mapping[str, float]) -> list[float]:
    """(5,) the factor of each of TERMS in every step: its weight / its count in a mean step; 0 if there is none of it."""
    return [weights.get(term, 0.0) / counts[term] if counts.get(term) else 0.0 for term in TERMS]


def is_spike(before: Sequence[float], loss: float, factor: float) -> bool:
    """True if a loss is above `factor` times the median of the last 50 losses. Never with fewer than 10 losses.

    >>> is_spike([1.0] * 10, 3.5, 3.0), is_spike([1.0] * 9, 3.5, 3.0)
    (True, False)
    """
    recent = before[-SPIKE_WINDOW:]
    return len(recent) >= _MIN_SPIKE_STEPS and loss > factor * statistics.median(recent)
