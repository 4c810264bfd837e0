"""How many replicas a deadline needs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cluster.cli import main
from cluster.planning.capacity import capacity
from cluster.planning.estimate import Throughput, label_estimate
from cluster.planning.plan_text import capacity_lines
from tests.cluster.planning.test_estimate import a_run
from tests.cluster.planning.test_plan import run_file, teacher

__all__ = ["run_file", "teacher"]

TEN_ROWS_PER_S = Throughput("calibration", "here", 10.0, 400.0, 40.0, 50.0, 0.1, 120.0)
UNKNOWN = {"seconds": None}


def answer(rows: int, deadline_s: float, throughput: Throughput = TEN_ROWS_PER_S, *, train: float | None = None,
           **settings: Any) -> dict[str, Any]:  # fmt: skip
    run = a_run(**{"gpus_per_replica": 2, "replicas": {"min": 1, "max": 3}, **settings})
    label = label_estimate(run, rows, 200 * rows, 100.0, throughput)
    stages = {"label": label, "train": {"seconds": train}, "evaluate": UNKNOWN}
    return capacity(run, stages, 100.0, throughput, deadline_s)


@pytest.mark.parametrize("deadline_s", [51.0, 300.0, 3_600.0, 9_999.0, 100_050.0, 1e7])
def test_one_replica_fewer_would_be_late(deadline_s: float) -> None:
    """A million rows at 10 rows/s by a replica: 100,000 s by one, and 50 s of engine start for each."""
    found = answer(1_000_000, deadline_s)
    label = found["label"]
    assert label["replicas"] == found["replicas"] == math.ceil(100_000 / (deadline_s - 50))
    assert label["seconds"] <= deadline_s
    if found["replicas"] > 1:
        assert 100_000 / (found["replicas"] - 1) + 50 > deadline_s
    assert found["gpus"] == 2 * found["replicas"]
    assert label["gpu_hours"] == pytest.approx(label["seconds"] * found["gpus"] / 3600)
    assert found["rows_per_s"] == pytest.approx(10 * found["replicas"])


def test_the_answer_does_not_depend_on_the_replicas_of_the_run_file() -> None:
    few, many = (answer(100_000, 600.0, replicas={"min": 1, "max": n}) for n in (1, 64))
    assert few == many


def test_training_that_is_known_takes_its_share_of_the_time() -> None:
    assert answer(100_000, 1_150.0, train=100.0)["replicas"] == 10
    assert answer(100_000, 1_050.0)["replicas"] == 10
    assert answer(100_000, 1_150.0, train=100.0)["left_out"] == ["evaluate"]
    assert answer(100_000, 1_050.0)["left_out"] == ["train", "evaluate"]


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (answer(0, 100.0), "there is nothing to label"),
        (answer(100, 100.0, Throughput("unknown", "")), "the throughput of a replica is not known; measure it with --calibrate N"),
        (answer(100, 50.0), "engine start, training and evaluation alone take longer"),
        (answer(100_000, 1_050.0, train=1_000.0), "engine start, training and evaluation alone take longer"),
        (answer(10, 50.01), "not even a replica for each row would do"),
        (answer(100, 100.0, engine="openai", remote={"url": "http://x/v1"}), "the limits of the teacher's endpoint decide, not replicas"),
    ],
)  # fmt: skip
def test_where_no_number_can_be_given_the_reason_is(found: dict[str, Any], why: str) -> None:
    assert (found["problem"], found["replicas"], found["label"]) == (why, None, None)
    (line,) = capacity_lines(found)
    assert line.endswith(why)


def test_what_is_beyond_one_driver_is_told_of() -> None:
    """Blocks of 16 rows for batches of 64, of 64 for those of 256."""
    fast = Throughput("calibration", "here", 100.0, 400.0, 40.0, 50.0, 0.1, 120.0)
    for batch, rows_per_s in ((64, 720), (256, 2880)):
        within, beyond = (
            answer(1_000_000, 50.0 + 1_000_000 / (rows_per_s + more), fast, vllm={"max_num_seqs": batch})
            for more in (-100, 100)
        )
        assert within["driver_rows_per_s"] == rows_per_s
        assert not any("one driver" in line for line in capacity_lines(within))
        assert any(f"one driver is known to keep up with {rows_per_s:,}" in line for line in capacity_lines(beyond))


def test_the_text_says_what_the_number_rests_on() -> None:
    lines = list(capacity_lines(answer(1_000_000, 10_050.0, train=0.0, price={"per_gpu_hour": 2.0})))
    assert lines[0] == (
        "deadline    2 h 48 min: 10 replicas, 20 GPUs of the kind that the throughput is of; set teacher.replicas.max to 10"
    )
    assert lines[1] == (
        "            labelling then takes 2 h 48 min, 55.8 GPU-hours, cost 111.67; replicas are taken to add up"
    )
    assert lines[2] == "            not in it, since nothing is known of it: evaluate"
    assert len(lines) == 3


def test_the_command_answers(run_file: str) -> None:
    result = CliRunner().invoke(main, ["plan", run_file, "--json", "--deadline", "45s"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["capacity"]["replicas"] >= 1
    assert found["capacity"]["label"]["seconds"] <= 45
    result = CliRunner().invoke(main, ["plan", run_file, "--deadline", "45s"])
    assert "deadline    45 s: " in result.stdout
    result = CliRunner().invoke(main, ["plan", str(Path(run_file)), "--deadline", "tomorrow"])
    assert (result.exit_code, "must be a duration" in result.output) == (2, True)
