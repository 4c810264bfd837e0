import re

import pytest

from pipelines.scoring import power
from pipelines.scoring.power import detectable, power_text


def test_more_examples_and_seeds_show_smaller_differences() -> None:
    sizes = [detectable(examples, seeds) for examples, seeds in ((200, 3), (1000, 3), (1000, 5), (3000, 10))]
    assert sizes == [pytest.approx(size, abs=5e-4) for size in (0.1496, 0.1059, 0.0620, 0.0345)]
    assert detectable(1000, 2) is detectable(1, 5) is None


def test_the_detectable_difference_worked_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without seed luck and examples that suit a method, the variance is 0.5 / (100 x 4). All mean squares are equal, so that degrees of
    # freedom are 1 / (1/99 + 1/3 + 1/297) = 2.88, for which t(0.975) = 3.257 and t(0.80) = 0.984.
    for name, value in (("SEED_SD", 0.0), ("DISAGREEMENT", 0.5), ("BY_EXAMPLE", 0.0)):
        monkeypatch.setattr(power, name, value)
    assert detectable(100, 4) == pytest.approx(1.1 * (3.257 + 0.984) * 0.00125**0.5, abs=2e-4)


@pytest.mark.parametrize(
    ("examples", "seeds", "words"),
    [
        (1000, 5, "can show a difference of 6.2 points or more"),
        (1000, 2, "warning: .* can show no difference; a verdict needs at least 3 seeds"),
        (50, 3, "warning: .* can show only differences of at least 26 points"),
    ],
)
def test_a_useless_comparison_is_warned_of(examples: int, seeds: int, words: str) -> None:
    assert re.search(words, power_text(examples, seeds))
