"""Planning with a calibration on a real Ray."""

from pathlib import Path

import pytest

from tests.support.commands import succeed
from tests.support.local_ray import shared_environment

pytestmark = pytest.mark.integration

# One row at a time, 0.1 s each: 10 rows/s by construction.
PACED = ["--set", "teacher={engine: echo, latency_s: 0.1, vllm: {max_num_seqs: 1}, replicas: {min: 1, max: 2}}"]


def test_a_calibration_measures_the_teacher_and_leaves_nothing(run_file: Path, tmp_path: Path) -> None:
    plan = succeed("plan", str(run_file), "--calibrate", "30", *PACED, env=shared_environment())
    throughput = plan["throughput"]
    assert throughput["basis"] == "calibration"
    assert throughput["source"].startswith("calibration: 30 rows by one replica on all ")
    # echo with 1.25 rows at a time, rounded up: at best two rows every 0.1 s.
    assert 2 < throughput["rows_per_s"] <= 21
    assert throughput["engine_start_s"] > 0
    assert throughput["reject_share"] == 0
    label = plan["stages"]["label"]
    assert label["rows"] == 52
    assert label["seconds"] == pytest.approx(52 / throughput["rows_per_s"] / 2 + throughput["engine_start_s"])
    assert label["output_tokens_per_row"] > 10
    assert not (tmp_path / "out").exists()
