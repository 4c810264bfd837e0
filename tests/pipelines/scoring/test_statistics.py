from __future__ import annotations

import math
import random

import pytest

from pipelines.scoring.statistics import Bin, calibration, difference, paired, score, verdict


def _outcomes(both: int, only_first: int, only_second: int, neither: int) -> tuple[list[bool], list[bool]]:
    pairs = [(True, True)] * both + [(True, False)] * only_first + [(False, True)] * only_second
    pairs += [(False, False)] * neither
    return [a for a, _ in pairs], [b for _, b in pairs]


def test_wilson_interval_worked_by_hand() -> None:
    # n = 4, p = 3/4, z = 1.959964: centre (p + z2/8) / (1 + z2/4) = 0.62753,
    # half width z * sqrt(p(1-p)/4 + z2/64) / (1 + z2/4) = 0.32689
    measured = score([True, True, False, True])
    assert (measured.correct, measured.total, measured.accuracy) == (3, 4, 0.75)
    assert measured.low == pytest.approx(0.30064, abs=1e-5)
    assert measured.high == pytest.approx(0.95442, abs=1e-5)


def test_wilson_interval_at_the_ends() -> None:
    # With none right of n the upper bound is z2 / (n + z2), and the other end mirrors it.
    z2 = 1.959964**2
    none, every = score([False] * 10), score([True] * 10)
    assert none.low == 0.0
    assert none.high == pytest.approx(z2 / (10 + z2), abs=1e-5)
    assert every.high == 1.0
    assert every.low == pytest.approx(1 - z2 / (10 + z2), abs=1e-5)


def test_no_examples_are_refused() -> None:
    with pytest.raises(ValueError, match="no examples"):
        score([])


def test_mcnemar_worked_by_hand() -> None:
    # 8 against 1: twice the probability of at most 1 head in 9 tosses = 2 * (1 + 9) / 512
    result = paired(*_outcomes(both=30, only_first=8, only_second=1, neither=11))
    assert (result.better, result.worse) == (8, 1)
    assert result.p_value == pytest.approx(20 / 512)


def test_mcnemar_is_symmetric_and_ignores_agreement() -> None:
    first, second = _outcomes(both=5, only_first=2, only_second=7, neither=3)
    there, back = paired(first, second), paired(second, first)
    assert (there.better, there.worse) == (back.worse, back.better) == (2, 7)
    assert there.p_value == back.p_value
    assert paired(*_outcomes(500, 2, 7, 300)).p_value == there.p_value


def test_mcnemar_of_equal_systems_is_one() -> None:
    assert paired(*_outcomes(0, 4, 4, 0)).p_value == pytest.approx(1.0)
    assert paired([True, False], [True, False]) == paired([True], [True])
    assert paired([True], [True]).p_value == 1.0


def test_mcnemar_of_a_large_one_sided_split() -> None:
    # 100 against 0: 2 * 2^-100
    assert paired([True] * 100, [False] * 100).p_value == pytest.approx(math.ldexp(1, -99))


def test_mcnemar_refuses_unequal_lengths() -> None:
    with pytest.raises(ValueError, match="shorter"):
        paired([True, False], [True])


def test_a_difference_worked_by_hand() -> None:
    # 8 against 1 of 50: p12 = 9/52, p21 = 2/52, middle 7/52; half 1.959964 sqrt((11/52 - (7/52)^2) / 52)
    found = difference(*_outcomes(both=30, only_first=8, only_second=1, neither=11))
    half = 1.959964 * math.sqrt((11 / 52 - (7 / 52) ** 2) / 52)
    assert found.value == pytest.approx(7 / 50)
    assert (found.low, found.high) == (pytest.approx(7 / 52 - half, abs=1e-6), pytest.approx(7 / 52 + half, abs=1e-6))


def test_equal_systems_have_a_narrow_interval() -> None:
    found = difference([True] * 100, [True] * 100)
    assert found.value == 0.0
    assert -0.05 < found.low < 0.0 < found.high < 0.05
    with pytest.raises(ValueError, match="no examples"):
        difference([], [])


@pytest.mark.parametrize("true_difference", [0.0, 0.08])
def test_the_interval_covers_a_planted_difference(true_difference: float) -> None:
    """200 simulated comparisons on 300 examples: 95% of the intervals, 184 to 198 of them, hold what was planted."""
    chance = random.Random(7)
    covered = found = 0
    for _ in range(200):
        first, second = [], []
        for _ in range(300):
            hard = chance.random()  # shared by both systems
            first.append(0.7 * chance.random() + 0.3 * hard < 0.5 + true_difference_shift(true_difference))
            second.append(0.7 * chance.random() + 0.3 * hard < 0.5)
        interval = difference(first, second)
        covered += interval.low <= true_difference <= interval.high
        found += not interval.low <= 0.0 <= interval.high
    assert 184 <= covered <= 198
    assert found <= 20 if true_difference == 0.0 else found >= 100


def true_difference_shift(wanted: float) -> float:
    """Shift of a threshold in the middle of 0.7 U + 0.3 V that adds this mass below it: the density there is 1 / 0.7."""
    return wanted * 0.7


def test_calibration_worked_by_hand() -> None:
    found = calibration([0.95, 0.95, 0.95, 0.95, 0.35, 1.0, 0.0], [True, True, True, False, True, False, False])
    assert found.bins[9] == Bin(5, pytest.approx(0.96), 0.6)
    assert found.bins[3] == Bin(1, 0.35, 1.0)
    assert found.bins[0] == Bin(1, 0.0, 0.0)
    assert [b is None for b in found.bins] == [False, True, True, False, True, True, True, True, True, False]
    assert found.error == pytest.approx((5 * 0.36 + 0.65 + 0.0) / 7)
    with pytest.raises(ValueError, match="no answers"):
        calibration([], [])


def test_a_verdict_needs_an_interval_without_zero() -> None:
    assert verdict((0.001, 0.1)) == "better"
    assert verdict((-0.1, -0.001)) == "worse"
    assert verdict((0.0, 0.1)) == verdict((-0.1, 0.0)) == verdict((-0.1, 0.1)) == "not shown"
