"""Accuracies and differences over several seeds, each scored on the same examples. Pure functions.

In: for each seed whether each example is right, (seeds, examples). Out: a mean with the interval in which it would lie for other examples
and other seeds:

    mean([[True, False, ...], [True, True, ...]])   -> Estimate(value=0.615, low=0.54, high=0.69)
    mean_difference(first, second)                  -> Estimate(value=0.03, low=-0.01, high=0.07)

Examples and seeds are two crossed random effects (Brennan, Generalizability Theory, 2001, section 3.2; Owen, The pigeonhole
bootstrap, 2007): a hard example is hard for every seed, and a seed that trained badly is bad on every example. Averaging over seeds
takes nothing from the first, and the examples, however many, nothing from the second. The variance of the mean of S x E values is

    (MS_examples + MS_seeds - MS_rest) / (S x E)

with the mean squares of the two-way table, and Student's t at Satterthwaite's degrees of freedom: with few seeds that differ much the
interval is wide, as it should be. (In 1,000 simulations with 200 examples and 3 seeds it covered the truth in 986 where seeds did
not differ at all, in 949 to 980 where they did; the interval over examples alone in 702 to 939 of the latter. With two seeds that
differ and 1,000 examples it covered the truth in only 358 to 367 of 400: two values say little of how much seeds differ.) One seed: the
intervals of metrics.py, which know nothing of how much another seed would change: where seeds differed by 2 to 5 points (standard
deviation) they covered the truth in 173 to 302 of 400. Whoever shows them has to say so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.scoring.statistics import CONFIDENCE_LEVEL, difference, score

Rights = Sequence[Sequence[bool]]
_Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A share or a difference of shares; `low` and `high` bound it with 95% confidence."""

    value: float
    low: float
    high: float


def mean(right: Rights) -> Estimate:
    """The mean accuracy over seeds and examples.

    The interval counts two more right and two more wrong examples (Agresti and Coull 1998), so that it holds near 0 and 1 too.

    Raises:
        ValueError: no seeds, no examples, or seeds with different numbers of them.
    """
    values = _table(right)
    if len(values) == 1:
        one = score(right[0])
        return Estimate(one.accuracy, one.low, one.high)
    return _estimate(values, [1.0, 1.0, 0.0, 0.0], 0.0)


def mean_difference(first: Rights, second: Rights) -> Estimate:
    """The mean of `first` minus `second`, whose seeds and examples are the same, in the same order.

    The interval counts one more example of each kind on which the two differ (Bonett and Price 2012).

    Raises:
        ValueError: no seeds, no examples, or not equally many.
    """
    values = _table(first) - _table(second)
    if len(values) == 1:
        one = difference(first[0], second[0])
        return Estimate(one.value, one.low, one.high)
    return _estimate(values, [1.0, -1.0], -1.0)


def _table(right: Rights) -> _Values:
    values = np.array(right, dtype=np.float64)  # raises ValueError where rows differ in length
    if values.ndim != 2 or not values.size:
        raise ValueError("there is no mean of no seeds or no examples")
    return values


def _estimate(values: _Values, added: list[float], lowest: float) -> Estimate:
    """The mean of a (seeds, examples) table, S >= 2. `added`: examples that only the interval counts, the same for every seed."""
    from scipy.stats import t

    counted = np.concatenate([values, np.tile(added, (len(values), 1))], axis=1)
    seeds, examples = counted.shape
    middle = counted.mean()
    of_example, of_seed = counted.mean(axis=0), counted.mean(axis=1)
    rest = counted - of_example - of_seed[:, None] + middle
    freedom = np.array([examples - 1, seeds - 1, (examples - 1) * (seeds - 1)])
    squares = np.array(
        [seeds * ((of_example - middle) ** 2).sum(), examples * ((of_seed - middle) ** 2).sum(), (rest**2).sum()]
    )
    ms = squares / freedom
    # An effect's variance is at least 0: where chance makes its mean square smaller than the rest's, it counts as 0.
    total = max(ms[0] + ms[1] - ms[2], ms[0], ms[1])
    degrees = total**2 / (ms**2 / freedom).sum()
    half = float(t.ppf((1 + CONFIDENCE_LEVEL) / 2, degrees)) * math.sqrt(total / (seeds * examples))
    return Estimate(float(values.mean()), max(float(middle) - half, lowest), min(float(middle) + half, 1.0))
