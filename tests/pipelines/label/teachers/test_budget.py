import pickle

import pytest

from pipelines.config import BudgetConfig, PriceConfig
from pipelines.label.teachers.base import NOTHING_USED, BudgetExhaustedError, TokensUsed
from pipelines.label.teachers.budget import BudgetMeter, estimate_tokens


def meter_of(tokens: int, used: TokensUsed = NOTHING_USED) -> BudgetMeter:
    return BudgetMeter(BudgetConfig(tokens=tokens), PriceConfig(), used)


def test_reservations_count_until_they_are_settled() -> None:
    meter = meter_of(1000)
    first = meter.reserve(300, 200)
    meter.reserve(300, 200)  # exactly the budget fits
    meter.settle(first, 280, 20)
    assert (meter.used[:2], meter.reserved) == ((280, 20), (300, 200))
    meter.reserve(100, 100)
    rule = r"^teacher.budget.tokens 1,000 has no room for a row of up to 1 tokens$"
    with pytest.raises(BudgetExhaustedError, match=rule) as caught:
        meter.reserve(1, 0)
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301
    assert (type(again), str(again)) == (BudgetExhaustedError, str(caught.value))


def test_after_the_first_refusal_all_are_refused() -> None:
    meter = meter_of(1000)
    held = meter.reserve(500, 400)
    with pytest.raises(BudgetExhaustedError):
        meter.reserve(100, 100)
    meter.release(held)
    with pytest.raises(BudgetExhaustedError):
        meter.reserve(1, 1)
    assert (meter.used[:2], meter.reserved) == ((0, 0), (0, 0)), "a refused request costs nothing"
    meter = meter_of(1000)
    meter.forfeit(meter.reserve(30, 60))
    assert (meter.used[:2], meter.reserved) == ((30, 60), (0, 0)), "one without an answer costs its reservation"
    with pytest.raises(BudgetExhaustedError):
        meter_of(1000, used=TokensUsed(600, 300)).reserve(51, 50)  # tokens of finished rows count


def test_money_is_counted_at_the_price_of_each_kind() -> None:
    price = PriceConfig(per_million_prompt_tokens=1.0, per_million_output_tokens=4.0)
    meter = BudgetMeter(BudgetConfig(money=0.01), price)
    meter.settle(meter.reserve(2000, 1000), 2000, 1000)  # 0.006
    assert meter.reserve(0, 1000)  # 0.010
    with pytest.raises(BudgetExhaustedError, match=r"^teacher.budget.money 0.01 has no room for a row of up to 1e-06$"):
        meter.reserve(1, 0)
    assert BudgetMeter(BudgetConfig(), price).reserve(10**12, 10**12), "without a budget everything fits"


def test_the_estimate_is_not_low_for_any_script() -> None:
    texts = ["Anne has 4 apples", " and gives 2"], ["安妮有四个苹果"], [], ["\ud800"]
    assert [estimate_tokens(one) for one in texts] == [10, 7, 0, 1]
