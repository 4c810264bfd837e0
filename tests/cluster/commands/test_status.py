"""`raystill status`: another process reads a run's folder, while real processes live and die."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from cluster.cli import main
from pipelines.label.reporting.progress_file import LabelProgressFile, label_status
from pipelines.status import RunStatus
from pipelines.storage.store import Store
from tests.support.corpora import run_config
from tests.support.label_folders import commit_labels, finish_artifact, labelling_process


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "out/labels"))


@pytest.fixture
def run_file(tmp_path: Path) -> str:
    run = run_config(train="nowhere.jsonl", output=str(tmp_path / "out"))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run.model_dump(exclude_unset=True)))
    return str(tmp_path / "run.yaml")


@pytest.fixture
def worker(store: Store) -> Iterator[subprocess.Popen[str]]:
    with labelling_process(store) as process:
        yield process


def lines(run_file: str) -> list[str]:
    result = CliRunner().invoke(main, ["status", run_file])
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def stages(run_file: str) -> dict[str, Any]:
    """The state of each stage, as JSON that the model accepts."""
    result = CliRunner().invoke(main, ["status", run_file, "--json"])
    assert result.exit_code == 0, result.output
    RunStatus.model_validate_json(result.stdout)
    return dict(json.loads(result.stdout)["stages"])


def test_states_follow_the_folder(run_file: str, store: Store, tmp_path: Path) -> None:
    assert stages(run_file) == {stage: {"state": "not begun"} for stage in ("label", "train", "evaluate")}
    assert not (tmp_path / "out").exists()
    Store(str(tmp_path / "out/training/abc/tokens")).write("part-0.parquet", b"")
    assert stages(run_file)["train"] == {"state": "begun"}
    finish_artifact(store, "labels")
    finish_artifact(Store(str(tmp_path / "out/student")), "student")
    label, train, evaluate = lines(run_file)
    assert label == "label     finished     2026-01-02T03:04:05+00:00: read 3, accepted 2, rejected 1"
    assert train.startswith("train     finished     2026-01-02")
    assert evaluate == "evaluate  not begun"


def test_a_comparison_shows_its_cells(run_file: str, tmp_path: Path) -> None:
    compare = Store(str(tmp_path / "out/compare"))
    report = {"groups": [{"cells": [1, 2]}, {"cells": [3]}], "missing": [4]}
    compare.write("report.json", json.dumps(report).encode())
    assert stages(run_file)["compare"] == {"state": "begun", "cells": {"done": 3, "missing": 1}}
    assert lines(run_file)[-1].startswith("compare   begun        3 cells finished, 1 missing; ")
    finish_artifact(compare, "comparison")
    assert stages(run_file)["compare"]["state"] == "finished"


def test_a_driver_is_seen_alive_and_dead(run_file: str, store: Store, worker: subprocess.Popen[str]) -> None:
    commit_labels(store, 0, 0, scan={"rows": {"train": 900, "heldout": 100}, "splits": []})
    commit_labels(store, 1, 100, engine_errors=7)
    line = lines(run_file)[0]
    assert line.startswith("label     running      300/1,000 rows, ")
    shares = "96.7% accepted, 3.3% rejected (unparsable 3.3%), tokens 30,000 in, 9,000 out, engines 2, busy share 0.50"
    assert shares in line
    assert f"pid {worker.pid} on " in line
    found = stages(run_file)["label"]
    assert (found["state"], found["pid"], found["resumed_at_rows"]) == ("running", worker.pid, 100)
    hour_later = label_status(store, wall_clock=lambda: time.time() + 3600)
    assert hour_later.state == "running", (
        "its process lives, however old the file is: an engine may take minutes to start"
    )

    worker.kill()
    # The zombie still has its pid, but it is no worker either.
    deadline = time.monotonic() + 10
    while stages(run_file)["label"]["state"] == "running":
        assert time.monotonic() < deadline
    assert (
        lines(run_file)[0]
        == f"label     interrupted  100 of 1,000 rows are finished; `raystill label {run_file}` resumes"
    )


def test_a_scan_is_shown(run_file: str, store: Store) -> None:
    with LabelProgressFile(store, "label", "rows") as live:
        live.phase("scanning the corpus")
        live.write()
        assert lines(run_file)[0].startswith("label     running      scanning the corpus, 0 s, pid ")


def test_follow_ends_with_the_work(run_file: str, store: Store, worker: subprocess.Popen[str]) -> None:
    """Exit 0 if the manifest appears; 1, and the command that resumes, if the process dies."""
    follow = [sys.executable, "-m", "cluster", "status", run_file, "--follow", "--json"]
    with subprocess.Popen(follow, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert follower.stderr is not None
        assert json.loads(follower.stdout.readline())["stages"]["label"]["state"] == "running"
        worker.kill()
        worker.wait()
        *_, last = follower.stdout
        assert json.loads(last)["stages"]["label"]["state"] == "interrupted"
        assert f"Run `raystill label {run_file}` to resume" in follower.stderr.read()
        assert follower.wait(timeout=30) == 1
    finish_artifact(store, "labels")
    assert subprocess.run(follow, capture_output=True, check=False).returncode == 0


def test_a_run_file_or_an_address_is_required() -> None:
    result = CliRunner().invoke(main, ["status"])
    assert (result.exit_code, "Give a run file, or --address" in result.stderr) == (2, True), result.output
