"""How many replicas a deadline needs."""

import math
from typing import Any

import pytest

from cluster.planning.capacity import capacity
from cluster.planning.estimate import label_estimate
from cluster.planning.model import Capacity, ReplicaThroughput, StageEstimate, StageEstimates, TrainEstimate
from cluster.planning.plan_text import capacity_lines
from tests.support.corpora import run_config

UNKNOWN = ReplicaThroughput(basis="unknown", source="")


def per_replica(rows_per_s: float) -> ReplicaThroughput:
    return ReplicaThroughput(
        basis="calibration", source="here", rows_per_s=rows_per_s, output_tokens_per_row=40.0, engine_start_s=50.0
    )


TEN_ROWS_PER_S = per_replica(10.0)


def answer(
    rows: int, deadline_s: float, throughput: ReplicaThroughput = TEN_ROWS_PER_S, *, train: Any = None, **teacher: Any
) -> Capacity:
    vllm = {"engine": "vllm", "model": "some/model", "gpus_per_replica": 2, "replicas": {"min": 1, "max": 3}}
    run = run_config({**vllm, **teacher})
    stages = StageEstimates(
        label=label_estimate(run, rows, 200 * rows, 100.0, throughput),
        train=TrainEstimate(seconds=train, gpu_hours=None, source="", memory=None),
        evaluate=StageEstimate(seconds=None, gpu_hours=None, source=""),
    )
    return capacity(run, stages, 100.0, throughput, deadline_s)


@pytest.mark.parametrize("deadline_s", [51.0, 300.0, 3_600.0, 9_999.0, 100_050.0, 1e7])
def test_one_replica_fewer_would_be_late(deadline_s: float) -> None:
    """A million rows at 10 rows/s per replica: 100,000 s by one, and 50 s of engine start for each."""
    found = answer(1_000_000, deadline_s)
    replicas, label = found.replicas, found.label
    assert replicas == math.ceil(100_000 / (deadline_s - 50))
    assert (label.replicas, label.seconds <= deadline_s) == (replicas, True)
    assert replicas == 1 or 100_000 / (replicas - 1) + 50 > deadline_s
    assert found.gpus == 2 * replicas
    assert label.gpu_hours == pytest.approx(label.seconds * found.gpus / 3600)
    assert found.rows_per_s == pytest.approx(10 * replicas)


def test_training_takes_its_share_of_the_deadline() -> None:
    with_training, without = answer(100_000, 1_150.0, train=100.0), answer(100_000, 1_050.0)
    assert with_training.replicas == without.replicas == 10
    assert (with_training.left_out, without.left_out) == (["evaluate"], ["train", "evaluate"])


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (answer(0, 100.0), "no rows are left to label"),
        (answer(100, 100.0, UNKNOWN), "the throughput of a replica is unknown; measure it with --calibrate N"),
        (answer(100, 50.0), "engine start, training and evaluation alone take longer"),
        (answer(100_000, 1_050.0, train=1_000.0), "engine start, training and evaluation alone take longer"),
        (answer(10, 50.01), "a replica for each row would still be late"),
        (answer(100, 100.0, engine="openai", remote={"url": "http://x/v1"}), "the teacher's endpoint sets the pace, not replicas"),
    ],
)  # fmt: skip
def test_a_missing_number_has_a_reason(found: Capacity, why: str) -> None:
    assert (found.problem, found.replicas, found.label) == (why, None, None)
    (line,) = capacity_lines(found)
    assert line.endswith(why)


@pytest.mark.parametrize(("batch", "rows_per_s"), [(64, 720), (256, 2880)])
def test_rates_beyond_one_driver_are_reported(batch: int, rows_per_s: int) -> None:
    """Blocks of 16 rows for batches of 64, of 64 for those of 256."""
    within, beyond = (
        answer(1_000_000, 50.0 + 1_000_000 / (rows_per_s + more), per_replica(100.0), vllm={"max_num_seqs": batch})
        for more in (-100, 100)
    )
    assert within.driver_rows_per_s == rows_per_s
    assert not any("one driver" in line for line in capacity_lines(within))
    assert any(f"one driver is known to keep up with {rows_per_s:,}" in line for line in capacity_lines(beyond))


def test_capacity_in_words() -> None:
    assert list(capacity_lines(answer(1_000_000, 10_050.0, train=60.0, price={"per_gpu_hour": 2.0}))) == [
        "deadline    2 h 48 min: 11 replicas, 22 GPUs; set teacher.replicas.max to 11",
        "            labelling then takes 2 h 32 min, 55.9 GPU-hours, cost 111.72",
        "            assumes that rates of replicas add up, each with the same GPU as the measured one",
        "            1 min 00 s of the deadline are for training and evaluation",
        "            not included, of unknown duration: evaluate",
    ]
