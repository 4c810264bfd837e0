from typing import Any

import numpy as np
import pytest

from pipelines.compare.model import Difference, Student
from pipelines.compare.verdicts import headline_difference, with_verdicts
from pipelines.scoring.power import BY_EXAMPLE, DISAGREEMENT, SEED_SD, detectable
from pipelines.scoring.seeds import mean_difference

SMALL = [Student(name="small", model="a/small", parameters=1000)]
EFFECT = 0.06


def difference(low: float = 0.01, high: float = 0.2, p: float = 0.02, **changes: Any) -> Difference:
    place = {"student": "small", "method": "step-by-step", "fraction": 1.0, "accuracy": 0.6, "baseline_accuracy": 0.5}
    found = {"difference": 0.1, "interval": (low, high), "seeds": 3, "p_value": p, "budget_ratio": 1.0}
    return Difference.model_validate({**place, **found, **changes})


@pytest.mark.parametrize(
    ("changes", "verdict", "why"),
    [
        ({}, "better", ""), ({"low": -0.2, "high": -0.01}, "worse", ""), ({"low": -0.01}, "not shown", ""),
        ({"budget_ratio": 1.04}, "better", ""),
        ({"budget_ratio": 2.6}, "not shown", "budgets differ: 2.6 times the steps"),
        ({"budget_ratio": 0.9, "low": -0.2, "high": -0.01}, "not shown", "budgets differ: 0.9 times the steps"),
        ({"seeds": 2}, "not shown", "fewer than 3 seeds"),
    ],
)  # fmt: skip
def test_budgets_seeds_and_the_interval_decide(changes: dict[str, Any], verdict: str, why: str) -> None:
    one = difference(**changes)
    [found] = with_verdicts([one], one, "steps")
    assert (found.shown, found.why, found.adjusted_p) == (verdict, why, None)


def test_comparisons_beside_the_headline_are_corrected() -> None:
    others = [difference(method=method, p=p) for method, p in (("soft-label", 0.04), ("task-distillation", 0.01))]
    first = difference(p=0.04)
    found = with_verdicts([*others, first], headline_difference([*others, first], SMALL), "steps")
    assert [one.shown for one in found] == ["better", "better", "better"]
    assert [one.adjusted_p for one in found] == [0.04, 0.02, None]
    found = with_verdicts([*others, first, *others], first, "steps")
    assert [one.shown for one in found] == ["not shown", "better", "better", "not shown", "better"]
    assert found[0].why == "with 4 comparisons its p is 0.08"


def test_controls_are_never_the_headline() -> None:
    shuffled = difference(treatment="shuffled-rationales")
    against = difference(versus="step-by-step, shuffled rationales")
    plain = difference(method="task-distillation", fraction=0.25)
    assert headline_difference([shuffled, against, plain], SMALL) is plain


def verdicts(times: int, examples: int, seeds: int, effect: float) -> list[str]:
    """Verdicts on simulated students: examples differ in difficulty and in which method they suit, seeds in luck."""
    chance, found = np.random.default_rng(17), []
    for _ in range(times):
        # Two students disagree on 2 x E[p (1 - p)] of the examples, here 0.38. Large effects must not push p beyond 0 and 1.
        difficulty = chance.choice([0.2, 0.5, 0.8], examples)
        suits = chance.normal(0.0, (BY_EXAMPLE * DISAGREEMENT) ** 0.5, examples)
        suits *= effect > 0  # one method under two names suits the same examples
        luck = chance.normal(0.0, SEED_SD, (2, seeds, 1))
        chances = (difficulty + sign * (effect + suits) / 2 + one for sign, one in zip((1, -1), luck, strict=True))
        gap = mean_difference(*((chance.random((seeds, examples)) < one).tolist() for one in chances))
        one = difference(gap.low, gap.high, gap.p_value, seeds=seeds)
        found.append(with_verdicts([one], one, "steps")[0].shown)
    return found


def test_a_method_against_itself_is_rarely_better_or_worse() -> None:
    # The rate is 2% to 4%: at most 5 of 100, counted over 400 so that chance does not decide the test.
    assert verdicts(400, examples=200, seeds=5, effect=0.0).count("not shown") >= 380


def test_a_planted_effect_is_found_at_the_promised_size() -> None:
    assert (detectable(examples=600, seeds=8) or 1.0) <= EFFECT
    assert verdicts(100, examples=600, seeds=8, effect=EFFECT).count("better") >= 80


@pytest.mark.full
@pytest.mark.parametrize(
    ("examples", "seeds"), [(200, 3), (1000, 3), (200, 5), (1000, 5), (3000, 5), (600, 8), (1000, 10)]
)
def test_verdicts_keep_their_promise_at_all_sizes(examples: int, seeds: int) -> None:
    size = detectable(examples, seeds)
    assert size is not None
    assert verdicts(1000, examples, seeds, effect=size).count("better") >= 800
    assert verdicts(1000, examples, seeds, effect=0.0).count("not shown") >= 945
