import math

import pytest

from pipelines.scoring.statistics import Bin, calibration, difference, paired, score, verdict

Z2 = 1.959964**2


def outcomes(both: int, only_first: int, only_second: int, neither: int) -> tuple[list[bool], list[bool]]:
    pairs = [(True, True)] * both + [(True, False)] * only_first + [(False, True)] * only_second
    pairs += [(False, False)] * neither
    return [a for a, _ in pairs], [b for _, b in pairs]


@pytest.mark.parametrize(
    ("right", "low", "high"),
    [
        # n = 4, p = 3/4: centre (p + z2/8) / (1 + z2/4) = 0.62753, half z * sqrt(p(1-p)/4 + z2/64) / (1 + z2/4) = 0.32689
        ([True, True, False, True], 0.30064, 0.95442),
        # With none right of n the upper bound is z2 / (n + z2), and the other end mirrors it.
        ([False] * 10, 0.0, Z2 / (10 + Z2)),
        ([True] * 10, 1 - Z2 / (10 + Z2), 1.0),
    ],
)
def test_wilson_interval_worked_by_hand(right: list[bool], low: float, high: float) -> None:
    found = score(right)
    assert (found.correct, found.total, found.accuracy) == (sum(right), len(right), sum(right) / len(right))
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-5), pytest.approx(high, abs=1e-5))


def test_nothing_and_unequal_lengths_are_refused() -> None:
    for of, nothing in ((score, [[]]), (difference, [[], []]), (calibration, [[], []])):
        with pytest.raises(ValueError, match="there are no"):
            of(*nothing)
    with pytest.raises(ValueError, match="shorter"):
        paired([True, False], [True])


@pytest.mark.parametrize(
    ("split", "p_value"),
    [
        ((30, 8, 1, 11), 20 / 512),  # twice the probability of at most 1 head in 9 tosses: 2 * (1 + 9) / 512
        ((30, 1, 8, 11), 20 / 512),
        ((500, 8, 1, 300), 20 / 512),  # agreement does not matter
        ((0, 4, 4, 0), 1.0),
        ((1, 0, 0, 1), 1.0),
        ((0, 100, 0, 0), math.ldexp(1, -99)),  # 2 * 2^-100
    ],
)
def test_mcnemar_worked_by_hand(split: tuple[int, int, int, int], p_value: float) -> None:
    found = paired(*outcomes(*split))
    assert ((found.better, found.worse), found.p_value) == (split[1:3], pytest.approx(p_value))


def test_a_difference_worked_by_hand() -> None:
    # 8 against 1 of 50: p12 = 9/52, p21 = 2/52, middle 7/52; half 1.959964 sqrt((11/52 - (7/52)^2) / 52)
    found = difference(*outcomes(both=30, only_first=8, only_second=1, neither=11))
    half = 1.959964 * math.sqrt((11 / 52 - (7 / 52) ** 2) / 52)
    assert found.value == pytest.approx(7 / 50)
    assert (found.low, found.high) == (pytest.approx(7 / 52 - half, abs=1e-6), pytest.approx(7 / 52 + half, abs=1e-6))
    equal = difference([True] * 100, [True] * 100)
    assert -0.05 < equal.low < 0.0 == equal.value < equal.high < 0.05


def test_calibration_worked_by_hand() -> None:
    found = calibration([0.95, 0.95, 0.95, 0.95, 0.35, 1.0, 0.0], [True, True, True, False, True, False, False])
    last = Bin(5, pytest.approx(0.96), 0.6)
    assert list(found.bins) == [Bin(1, 0.0, 0.0), None, None, Bin(1, 0.35, 1.0), *[None] * 5, last]
    assert found.error == pytest.approx((5 * 0.36 + 0.65 + 0.0) / 7)


def test_a_verdict_needs_an_interval_without_zero() -> None:
    intervals = [(0.001, 0.1), (-0.1, -0.001), (0.0, 0.1), (-0.1, 0.0), (-0.1, 0.1)]
    assert [verdict(interval) for interval in intervals] == ["better", "worse", *["not shown"] * 3]
