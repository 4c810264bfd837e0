import math
import random
from collections import Counter

from pipelines.label.teachers.base import row_seed


def test_votes_of_rows_are_binomial() -> None:
    """n = 5 samples that are right with p = 0.55, over 2,000 rows: chi-square with 5 degrees of freedom, p > 0.01."""
    rows, n, p = 2000, 5, 0.55
    draws = ([random.Random(row_seed(0, f"r{row}", start)).random() for start in range(n)] for row in range(rows))
    votes = Counter(sum(draw < p for draw in drawn) for drawn in draws)
    expected = [rows * math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
    chi_square = sum((votes[k] - wanted) ** 2 / wanted for k, wanted in enumerate(expected))
    assert chi_square < 15.09


def test_seeds_are_those_of_row_and_run() -> None:
    assert row_seed(0, "a") == row_seed(0, "a")
    assert len({row_seed(0, "a"), row_seed(1, "a"), row_seed(0, "b"), row_seed(0, "a", 1)}) == 4
    assert 0 <= row_seed(0, "\ud800") < 2**31
