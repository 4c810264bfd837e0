"""Planning with a calibration on a real Ray, and the live status of a run from another process."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.support.commands import raystill, running
from tests.support.local_ray import shared_environment

pytestmark = pytest.mark.integration

# One row at a time, 0.1 s each: 10 rows/s by construction.
PACED = ["--set", "teacher={engine: echo, latency_s: 0.1, vllm: {max_num_seqs: 1}, replicas: {min: 1, max: 2}}"]


def test_a_calibration_measures_the_teacher_and_leaves_nothing(run_file: Path, tmp_path: Path) -> None:
    result = raystill("plan", str(run_file), "--calibrate", "30", "--json", *PACED, env=shared_environment())
    assert result.returncode == 0, result.stderr[-3000:]
    plan = json.loads(result.stdout)
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


def test_status_shows_a_run_of_another_process_until_its_end(run_file: Path, tmp_path: Path) -> None:
    slow = ["--set", "teacher={engine: echo, latency_s: 0.5, vllm: {max_num_seqs: 4}}"]
    states = []
    with running("label", str(run_file), *slow, log=tmp_path / "log") as process:
        deadline = time.monotonic() + 100
        while process.poll() is None:
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()[-3000:]
            states.append(label_state(run_file))
    assert process.returncode == 0, (tmp_path / "log").read_text()[-3000:]
    seen = [state for state, _ in states if state != "not begun"]
    assert seen[0] == "running"
    assert set(seen) <= {"running", "finished"}
    counted = [found for state, found in states if state == "running" and found["total"] == 52]
    assert any(0 < found["done"] < 52 and found["rows_per_s"] > 0 for found in counted)
    assert all(found["pid"] == process.pid for found in counted)
    state, found = label_state(run_file)
    assert (state, found["counts"]["accepted"]) == ("finished", 40)
    assert not (tmp_path / "out/labels/progress.json").exists()


def label_state(run_file: Path) -> tuple[str, dict[str, object]]:
    result = raystill("status", str(run_file), "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)["stages"]["label"]
    return found["state"], found
