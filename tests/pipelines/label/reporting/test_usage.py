"""The arithmetic of the label stage's figures."""

from __future__ import annotations

from collections import Counter

import pytest

from pipelines.config import PriceConfig, SamplingConfig, TeacherConfig
from pipelines.label.output.counts import Counts
from pipelines.label.reporting.usage import Work, cost, label_details, shares, throughput

# Two replicas on a GPU each: 20 s and 30 s of engine start, then 100 s and 90 s of work, of which 95 s and 81 s busy.
WORK = Work(
    rows=1000, prompt_tokens=300_000, output_tokens=50_000, seconds=100.0, engine_start_s=20.0, start_s=50.0,
    up_s=190.0, busy_s=176.0,
)  # fmt: skip


def teacher(**settings: object) -> TeacherConfig:
    return TeacherConfig.model_validate({"engine": "vllm", "model": "some/model", "gpus_per_replica": 1, **settings})


def test_throughput_leaves_the_engine_start_out() -> None:
    assert throughput(WORK) == {
        "rows": 1000,
        "seconds": 100.0,
        "replicas": 1.9,
        "rows_per_s": 10.0,
        "prompt_tokens_per_s": 3000.0,
        "output_tokens_per_s": 500.0,
        "engine_busy_share": pytest.approx(176 / 190),
    }


def test_nothing_answered_has_no_rates() -> None:
    rates = throughput(Work())
    assert rates.pop("rows") == 0
    assert rates.pop("seconds") == 0
    assert set(rates.values()) == {None}


def test_works_of_several_runs_add_up() -> None:
    both = WORK + Work(
        rows=500, prompt_tokens=1, seconds=25.0, engine_start_s=20.0, start_s=20.0, up_s=25.0, busy_s=25.0
    )
    assert (both.rows, both.prompt_tokens, both.output_tokens) == (1500, 300_001, 50_000)
    assert (both.seconds, both.engine_start_s, both.start_s, both.up_s, both.busy_s) == (125, 40, 70, 215, 201)


def test_gpu_hours_hold_the_engine_start_and_all_gpus_of_a_replica() -> None:
    sampling = SamplingConfig(n=5, temperature=0.7)
    config = teacher(gpus_per_replica=4, sampling=sampling, price=PriceConfig(per_gpu_hour=3.0))
    details = label_details(WORK, Counts(agreements=Counter({"9": 7, "0": 1})), config)
    hours = 4 * 240 / 3600
    assert details["gpu_hours"] == pytest.approx(hours)
    assert details["cost"]["amount"] == pytest.approx(3 * hours)
    assert details["cost"]["basis"] == "0.27 GPU-hours at 3"
    assert details["cost"]["rows"] == 1000
    assert details["agreement_histogram"] == [1, 0, 0, 0, 0, 0, 0, 0, 0, 7]


def test_one_sample_has_no_agreement_histogram_and_cpus_no_gpu_hours() -> None:
    details = label_details(WORK, Counts(agreements=Counter({"9": 7})), teacher(gpus_per_replica=0))
    assert (details["agreement_histogram"], details["gpu_hours"], details["cost"]) == (None, None, None)


def test_tokens_are_charged_where_no_gpus_are() -> None:
    price = PriceConfig(per_million_prompt_tokens=0.5, per_million_output_tokens=2.0, per_gpu_hour=9.0)
    charged = cost(price, gpu_hours=0.0, prompt_tokens=3e6, output_tokens=250_000)
    assert charged == {
        "amount": pytest.approx(2.0),
        "basis": "3.00 million prompt tokens at 0.5 + 0.25 million output tokens at 2",
    }


def test_a_price_of_hours_says_nothing_where_there_are_no_gpus() -> None:
    assert cost(PriceConfig(per_gpu_hour=9.0), gpu_hours=0.0, prompt_tokens=1e6, output_tokens=1e6) is None


def test_tokens_are_charged_for_all_rows_and_the_cover_is_told() -> None:
    price = PriceConfig(per_million_prompt_tokens=1.0)
    details = label_details(WORK, Counts(prompt_tokens=3_000_000), teacher(gpus_per_replica=0, price=price))
    assert details["cost"] == {"amount": 3.0, "basis": "3.00 million prompt tokens at 1", "rows": 1000}


def test_shares_name_the_most_frequent_reason() -> None:
    assert shares(0, {}) == ""
    assert shares(3, {}) == "100.0% accepted, 0.0% rejected"
    assert shares(90, {"tie": 3, "unparsable": 7}) == "90.0% accepted, 10.0% rejected (unparsable 7.0%)"
