from collections import Counter

import pytest

from pipelines.config import PriceConfig, TeacherConfig
from pipelines.config.teacher import RemoteConfig
from pipelines.label.output.counts import Counts
from pipelines.label.reporting import usage
from pipelines.label.reporting.usage import Work, cost, gpu_hours, label_cost, shares, stored_answers, throughput
from pipelines.label.teachers.base import TokensUsed

# Two replicas on a GPU each: 20 s and 30 s of engine start, then 100 s and 90 s of work, of which 95 s and 81 s busy.
WORK = Work(
    rows=1000, prompt_tokens=300_000, output_tokens=50_000, seconds=100.0, engine_start_s=20.0, start_s=50.0,
    up_s=190.0, busy_s=176.0,
)  # fmt: skip


def teacher(**settings: object) -> TeacherConfig:
    return TeacherConfig.model_validate({"engine": "vllm", "model": "some/model", "gpus_per_replica": 1, **settings})


def test_throughput_leaves_the_engine_start_out() -> None:
    assert throughput(WORK).model_dump() == {
        "rows": 1000, "seconds": 100.0, "replicas": 1.9, "rows_per_s": 10.0, "prompt_tokens_per_s": 3000.0,
        "output_tokens_per_s": 500.0, "engine_busy_share": pytest.approx(176 / 190),
    }  # fmt: skip
    rates = throughput(Work()).model_dump(exclude={"rows", "seconds"})
    assert set(rates.values()) == {None}, "nothing was answered"


def test_gpu_hours_include_engine_starts_and_all_gpus() -> None:
    config, hours = teacher(gpus_per_replica=4, price=PriceConfig(per_gpu_hour=3.0)), 4 * 240 / 3600
    assert gpu_hours(WORK, config) == pytest.approx(hours)
    charged = label_cost(WORK, Counts(), config)
    assert (charged.amount, charged.basis, charged.rows) == (pytest.approx(3 * hours), "0.27 GPU-hours at 3", 1000)


def test_without_gpus_the_tokens_of_all_rows_are_charged() -> None:
    price = PriceConfig(per_million_prompt_tokens=1.0, per_million_output_tokens=2.0, per_gpu_hour=9.0)
    config = teacher(gpus_per_replica=0, price=price)
    assert gpu_hours(WORK, config) is None
    charged = label_cost(WORK, Counts(prompt_tokens=3_000_000, output_tokens=250_000), config)
    basis = "3.00 million prompt tokens at 1 + 0.25 million output tokens at 2"
    assert charged.model_dump() == {"amount": 3.5, "basis": basis, "rows": 1000, "this_run": None}
    assert label_cost(WORK, Counts(), teacher()) is None, "without a price"
    assert cost(PriceConfig(per_gpu_hour=9.0), TokensUsed(1_000_000, 1_000_000)) is None


def test_agreement_has_a_histogram_with_several_samples() -> None:
    counts = Counts(agreements=Counter({"9": 7, "0": 1}))
    several = teacher(sampling={"n": 5, "temperature": 0.7})
    assert usage.agreement_histogram(counts, several) == [1, 0, 0, 0, 0, 0, 0, 0, 0, 7]
    assert usage.agreement_histogram(counts, teacher()) is None


def test_cached_and_stored_tokens_cost_less() -> None:
    price = PriceConfig(per_million_prompt_tokens=1.0, per_million_cached_tokens=0.25, per_million_output_tokens=2.0)
    counts = Counts(prompt_tokens=3_000_000, cached_tokens=1_000_000, stored_prompt_tokens=1_000_000)
    charged = label_cost(WORK, counts, teacher(gpus_per_replica=0, price=price))
    assert charged.amount == pytest.approx(1.0 + 0.25)
    assert "1.00 million cached prompt tokens at 0.25" in charged.basis
    taken_over = stored_answers(Counts(stored=9, stored_prompt_tokens=1_000_000), teacher(price=price))
    assert (taken_over.rows, taken_over.cost) == (9, 1.0)
    paid = Work(paid=TokensUsed(4_000_000, 0), paid_before=TokensUsed(1_000_000, 0))
    charged = label_cost(paid, counts, teacher(gpus_per_replica=0, price=price))
    assert (charged.amount, charged.this_run) == (4.0, 3.0), "answers that no row has are paid too"
    batches = TeacherConfig(engine="openai", model="m", remote=RemoteConfig(url="http://h/v1", batch=True), price=price)
    half = cost(batches.charged, TokensUsed(2_000_000, 1_000_000))
    assert half.amount == pytest.approx(2.0)


def test_shares_name_the_most_frequent_reason() -> None:
    assert (shares(0, {}), shares(3, {})) == ("", "100.0% accepted, 0.0% rejected")
    assert shares(90, {"tie": 3, "unparsable": 7}) == "90.0% accepted, 10.0% rejected (unparsable 7.0%)"
