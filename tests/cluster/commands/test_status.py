"""`raystill status`: another process reads a run's folder, while real processes live and die."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from click.testing import CliRunner

from cluster.cli import main
from cluster.commands import status
from pipelines.config import RunConfig
from pipelines.errors import StageFailedError
from pipelines.label.reporting.progress_file import LabelProgressFile
from pipelines.runtime.stage_progress import StageName
from pipelines.status import Finished, NotBegun, Running, RunStatus, StageState
from pipelines.storage.manifest import now
from pipelines.storage.process_identity import this_process
from pipelines.storage.store import PROGRESS, Store
from tests.support.corpora import run_config
from tests.support.label_folders import commit_labels, finish_artifact, labelling_process, stage_process, step


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
    output, *stages = result.stdout.splitlines()
    assert output == f"output    {Path(run_file).parent / 'out'}"
    return stages


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


def test_a_scan_is_shown(run_file: str, store: Store) -> None:
    with LabelProgressFile(store, "label", "rows") as live:
        live.phase("scanning the corpus")
        live.write()
        assert lines(run_file)[0].startswith("label     running      scanning the corpus, 0 s, pid ")


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

    worker.kill()
    # The zombie still has its pid, but it is no worker either.
    deadline = time.monotonic() + 10
    while stages(run_file)["label"]["state"] == "running":
        assert time.monotonic() < deadline
    found = lines(run_file)[0]
    assert found == f"label     interrupted  100 of 1,000 rows are finished; `raystill label {run_file}` resumes"


@pytest.mark.parametrize(("stage", "folder"), [("train", "student"), ("evaluate", "report"), ("compare", "compare")])
def test_every_stage_shows_phase_rate_and_end(run_file: str, tmp_path: Path, stage: str, folder: str) -> None:
    def line() -> str:
        return " ".join(next(line for line in lines(run_file) if line.startswith(stage)).split())

    artifact = Store(str(tmp_path / "out" / folder))
    with stage_process(artifact, stage) as process:
        assert re.match(f"{stage} running 100/900 tokens, starting workers, .*pid {process.pid} on ", line())
        assert step(process) == "working\n"
        running = rf"{stage} running 300/900 tokens, .* tokens/s, .* left, step 3/9, loss: label 0\.412, pid "
        assert re.match(running, line())
        found = stages(run_file)[stage]
        assert (found["state"], found["done"], found["unit"]) == ("running", 300, "tokens")
        process.kill()
        process.wait()
    assert line().startswith(f"{stage} interrupted 300/900 tokens, step 3/9, loss: label 0.412, ended ")
    remedy = "repeats it" if stage == "evaluate" else "resumes"
    assert line().endswith(f"ago; `raystill {stage} {run_file}` {remedy}")
    assert stages(run_file)[stage]["state"] == "interrupted"
    finish_artifact(artifact, "comparison" if stage == "compare" else folder)  # type: ignore[arg-type]
    assert line().startswith(f"{stage} finished 2026-01-02")


@pytest.mark.parametrize("damaged", [b"", b"{oops", b'{"format": 2}', b"\xff"])
def test_damaged_files_never_end_the_command(run_file: str, tmp_path: Path, damaged: bytes) -> None:
    for folder in ("labels", "student", "report", "compare"):
        Store(str(tmp_path / "out" / folder)).write(PROGRESS, damaged)
    Store(str(tmp_path / "out/compare")).write("report.json", damaged)
    states = ["not begun", "not begun", "not begun", "begun"]
    assert [state["state"] for state in stages(run_file).values()] == states
    assert len(lines(run_file)) == 4


def test_a_hostile_file_draws_nothing_on_the_terminal(run_file: str, tmp_path: Path) -> None:
    tree = {**running("train", detail="\x1b[2J\nforged line", host="node\r").model_dump(), "seconds_left": 1e300}
    Store(str(tmp_path / "out/student")).write(PROGRESS, json.dumps(tree).encode())
    _, train, _ = lines(run_file)
    assert train.isprintable()
    assert "forged line" in train


def running(stage: StageName, **changed: Any) -> Running:
    """A stage that this process works on."""
    fields = {"started": now(), "unit": "rows", "done": 1, "total": 2, "updated_s": time.time()}
    return Running.model_validate({**this_process(), "stage": stage, **fields, **changed})


def finished(created: str = "2999-01-01T00:00:00+00:00") -> Finished:
    return Finished(created=created, fingerprint="f", counts={})


FOREIGN = {"processes": "another machine"}
GONE = {"process": 1}


@pytest.mark.parametrize(
    ("states", "seconds", "exit_code"),
    [
        # After `label`, the same process runs `train`: 50 s without a running stage are bridged.
        ([{"label": running("label")}, *[{"label": finished()}] * 25, {"train": running("train")}, {"train": finished()}], 172, 0),
        ([{"label": running("label")}, {"label": finished()}], 120, 0),  # its process stays without another stage
        ([{"label": running("label", **GONE)}, {"label": finished()}], 2, 0),
        ([{"label": running("label", **FOREIGN)}, {"label": finished()}], 30, 0),
        ([{"evaluate": running("evaluate")}, {"evaluate": finished()}], 2, 0),  # the last stage
        ([{"compare": running("compare")}, {"compare": finished()}], 2, 0),
        ([{"train": running("train")}, {"train": NotBegun()}], 2, 1),
        ([{"train": running("train")}, {"train": finished("2026-01-01T00:00:00+00:00")}], 2, 1),  # it was there before
        ([{"label": finished()}], 0, 0),
        ([{"label": NotBegun()}], 0, 0),
    ],
)  # fmt: skip
def test_follow_ends_when_no_stage_can_follow(
    states: list[dict[StageName, StageState]], seconds: int, exit_code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages, left, slept = dict[StageName, StageState](), list(states), [0.0]

    def read(run: object) -> RunStatus:
        stages.update(left.pop(0) if left else {})
        return RunStatus(run="a", output="out", stages=dict(stages))

    monkeypatch.setattr(status, "run_status", read)
    clock = SimpleNamespace(sleep=lambda s: slept.append(slept[-1] + s), monotonic=lambda: slept[-1])
    monkeypatch.setattr(status, "time", clock)
    match = r"train ended unfinished. Run `raystill train run.yaml` to resume"
    with pytest.raises(StageFailedError, match=match) if exit_code else nullcontext():
        status.follow_status(cast(RunConfig, None), "run.yaml", as_json=True)
    assert slept[-1] == seconds


def test_follow_ends_with_the_work(run_file: str, store: Store, worker: subprocess.Popen[str]) -> None:
    follow = [sys.executable, "-m", "cluster", "status", run_file, "--follow", "--json"]
    with subprocess.Popen(follow, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as follower:
        assert json.loads(follower.stdout.readline())["stages"]["label"]["state"] == "running"
        worker.kill()
        worker.wait()
        *_, last, error = follower.stdout
        assert json.loads(last)["stages"]["label"]["state"] == "interrupted"
        assert json.loads(error)["error"]["type"] == "failed"
        assert f"Run `raystill label {run_file}` to resume" in follower.stderr.read()
        assert follower.wait(timeout=30) == 1
    finish_artifact(store, "labels")
    assert subprocess.run(follow, capture_output=True, check=False).returncode == 0


def test_a_run_file_or_an_address_is_required() -> None:
    result = CliRunner().invoke(main, ["status"])
    assert (result.exit_code, "Give a run file, or --address" in result.stderr) == (2, True), result.output
