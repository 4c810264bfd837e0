from __future__ import annotations

import pickle

import pytest

from pipelines.config import BudgetConfig, PriceConfig
from pipelines.label.teachers.base import BudgetExhaustedError
from pipelines.label.teachers.budget import BudgetMeter, estimate_tokens

PRICE = PriceConfig(per_million_prompt_tokens=1.0, per_million_output_tokens=4.0)


def tokens(budget: int, used: tuple[int, int] = (0, 0)) -> BudgetMeter:
    return BudgetMeter(BudgetConfig(tokens=budget), PriceConfig(), used)


def test_reservations_count_until_they_are_settled() -> None:
    meter = tokens(1000)
    first = meter.reserve(300, 200)
    meter.reserve(300, 200)
    meter.settle(first, 280, 20)
    assert (meter.used, meter.reserved) == ((280, 20), (300, 200))
    meter.reserve(100, 100)
    with pytest.raises(
        BudgetExhaustedError, match=r"budget.tokens 1,000: 300 are used, 700 tokens are in flight, the next .* 1$"
    ):
        meter.reserve(1, 0)


def test_exactly_the_budget_fits() -> None:
    assert tokens(1000).reserve(600, 400)


def test_what_committed_rows_used_counts() -> None:
    meter = tokens(1000, used=(600, 300))
    assert meter.reserve(50, 50)
    with pytest.raises(BudgetExhaustedError):
        tokens(1000, used=(600, 300)).reserve(51, 50)


def test_once_it_has_refused_it_refuses_all() -> None:
    meter = tokens(1000)
    held = meter.reserve(500, 400)
    with pytest.raises(BudgetExhaustedError):
        meter.reserve(100, 100)
    meter.release(held)
    with pytest.raises(BudgetExhaustedError):
        meter.reserve(1, 1)
    assert (meter.used, meter.reserved) == ((0, 0), (0, 0))


def test_a_request_without_an_answer_counts_with_all_it_reserved() -> None:
    meter = tokens(1000)
    meter.forfeit(meter.reserve(30, 60))
    assert (meter.used, meter.reserved) == ((30, 60), (0, 0))


def test_money_is_counted_at_the_price_of_each_kind() -> None:
    meter = BudgetMeter(BudgetConfig(money=0.01), PRICE)
    meter.settle(meter.reserve(2000, 1000), 2000, 1000)  # 0.006
    assert meter.reserve(0, 1000)  # 0.010
    with pytest.raises(BudgetExhaustedError, match=r"budget.money 0.01: 0.0060 is spent, 1,000 tokens are in flight"):
        meter.reserve(1, 0)


def test_without_a_budget_everything_fits() -> None:
    assert BudgetMeter(BudgetConfig(), PriceConfig()).reserve(10**12, 10**12)


def test_the_estimate_of_a_prompt_is_not_low_for_any_script() -> None:
    assert estimate_tokens(["Anne has 4 apples", " and gives 2"]) == 10
    assert estimate_tokens(["安妮有四个苹果"]) == 7
    assert estimate_tokens([]) == 0
    assert estimate_tokens(["\ud800"]) == 1


def test_the_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(BudgetExhaustedError("budget.tokens 5")))  # noqa: S301
    assert (type(error), str(error)) == (BudgetExhaustedError, "budget.tokens 5")
