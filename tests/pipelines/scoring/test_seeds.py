from typing import Any

import numpy as np
import pytest

from pipelines.scoring.seeds import Estimate, mean, mean_difference
from pipelines.scoring.statistics import difference, score

SIMULATIONS = 200
EXAMPLES, SEEDS = 200, 3


def simulated(rng: np.random.Generator, effect: float, seeds: int, seed_spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Answers of a method and of its baseline, (seeds, examples). Examples differ in difficulty, seeds in luck by `seed_spread`."""
    chance = rng.uniform(0.1, 0.7, EXAMPLES)
    luck = rng.normal(0.0, seed_spread, (2, seeds, 1))
    base = rng.random((seeds, EXAMPLES)) < chance + luck[0]
    return rng.random((seeds, EXAMPLES)) < chance + effect + luck[1], base


@pytest.mark.parametrize("effect", [0.0, 0.08])
@pytest.mark.parametrize(
    ("seeds", "luck", "least", "most"),
    [(1, 0.0, 184, 198), (3, 0.03, 184, 198), (5, 0.03, 184, 198), (3, 0.0, 190, 200)],
)
def test_the_interval_covers_a_planted_difference(effect: Any, seeds: int, luck: float, least: int, most: int) -> None:
    """Equal seeds give a wider interval."""
    rng = np.random.default_rng(20)
    made = (simulated(rng, effect, seeds, luck) for _ in range(SIMULATIONS))
    found = [mean_difference(*(side.tolist() for side in sides)) for sides in made]
    # 95% of 200 are 190; 184 to 198 is the range of chance.
    assert least <= sum(one.low <= effect <= one.high for one in found) <= most
    # It misses on both sides alike: 5 of 200 on each, at most 12 by chance.
    assert max(sum(one.low > effect for one in found), sum(one.high < effect for one in found)) <= 12
    if effect:
        assert sum(one.low > 0.0 for one in found) > 50, "a planted effect must be found"


@pytest.mark.parametrize(("seeds", "low", "high"), [(1, 0.5, 0.8), (2, 0.84, 0.95), (3, 0.92, 0.99)])
def test_few_seeds_cover_less(seeds: int, low: float, high: float) -> None:
    """The notes on one and two seeds in reports and README."""
    rng = np.random.default_rng(6)
    covered = 0
    for _ in range(SIMULATIONS):
        chance = rng.uniform(0.1, 0.7, 1000)
        luck = rng.normal(0.0, 0.03, (2, seeds, 1))
        found = mean_difference(*((rng.random((seeds, 1000)) < chance + one).tolist() for one in luck))
        covered += found.low <= 0.0 <= found.high
    assert low <= covered / SIMULATIONS <= high


@pytest.mark.parametrize(("seeds", "seed_spread"), [(1, 0.0), (3, 0.03)])
def test_the_interval_of_a_mean_covers_the_truth(seeds: int, seed_spread: float) -> None:
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(SIMULATIONS):
        chance = rng.beta(1.0, 3.0, EXAMPLES)  # 0.25 on average
        right = rng.random((seeds, EXAMPLES)) < chance + rng.normal(0.0, seed_spread, (seeds, 1))
        found = mean(right.tolist())
        covered += found.low <= 0.25 <= found.high
    assert 184 <= covered <= 198


def test_one_seed_has_the_intervals_of_one_report() -> None:
    first, second = [True, True, False, True], [True, False, False, False]
    alone, gap = score(first), difference(first, second)
    assert mean([first]) == Estimate(alone.accuracy, alone.low, alone.high)
    assert mean_difference([first], [second]) == Estimate(gap.value, gap.low, gap.high, gap.p_value)


def test_seeds_that_differ_widen_the_interval() -> None:
    even, luck = mean([[True, False] * 50] * 3), mean([[True] * 100, [True, False] * 50, [False] * 100])
    assert even.value == luck.value == 0.5
    assert luck.high - luck.low > 3 * (even.high - even.low)


def test_the_variance_worked_by_hand() -> None:
    # Two seeds, four examples and the four that the interval adds.
    right = [[True, True, False, False], [True, False, False, False]]
    table = np.array([[1, 1, 0, 0, 1, 1, 0, 0], [1, 0, 0, 0, 1, 1, 0, 0]], dtype=float)
    ms_examples = 2 * np.var(table.mean(axis=0), ddof=1)
    ms_seeds = 8 * np.var(table.mean(axis=1), ddof=1)
    assert (ms_examples, ms_seeds) == (pytest.approx(0.4910714), pytest.approx(0.0625))
    found, middle = mean(right), table.mean()
    assert found.value == 0.375
    assert found.low < middle < found.high
    # The mean squares of rest and seeds are equal here, 0.0625: seeds add nothing to the variance. Satterthwaite's degrees of freedom:
    # 0.4910714^2 / (0.4910714^2 / 7 + 0.0625^2 / 1 + 0.0625^2 / 7) = 6.20, for which t is 2.428.
    assert found.high - middle == pytest.approx(2.428 * (0.4910714 / 16) ** 0.5, rel=1e-3)


def test_a_mean_of_nothing_is_refused() -> None:
    for nothing in ([], [[]]):
        with pytest.raises(ValueError, match="no"):
            mean(nothing)
    with pytest.raises(ValueError):
        mean_difference([[True], [True, False]], [[True], [True]])
