"""How many optimizer steps a training takes. Light: `plan` imports it."""

from __future__ import annotations

import math

FEW_STEPS = 300
"""A training of fewer optimizer steps is warned of."""


def steps_of_an_epoch(tokens: int, tokens_per_batch: int) -> int:
    """Optimizer steps of one pass over training examples with so many tokens."""
    return max(1, math.ceil(tokens / tokens_per_batch))


def planned_steps(tokens: int, tokens_per_batch: int, epochs: float | None, steps: int | None) -> int:
    """Optimizer steps of a training: `steps`, or those of so many epochs.

    Args:
        tokens: of one pass over the training examples.
    """
    if steps is not None:
        return steps
    if epochs is None:
        raise ValueError("a plan needs epochs or steps")
    return max(1, round(epochs * steps_of_an_epoch(tokens, tokens_per_batch)))


def few_steps(steps: int) -> str | None:
    """A warning if a training has few optimizer steps."""
    if steps >= FEW_STEPS:
        return None
    rule = f"{steps:,} optimizer steps are few: below {FEW_STEPS} a student learns little, published results take thousands"
    return f"{rule}. Set training.steps, or lower training.tokens_per_batch"
