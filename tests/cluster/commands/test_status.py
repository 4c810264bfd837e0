"""`raystill status`: what another process finds in a run's folder, with real processes that live and die."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from cluster.cli import main
from pipelines.data.schema import REJECT_REASONS
from pipelines.label.output.counts import Counts
from pipelines.label.output.writer import Commit
from pipelines.label.reporting.progress_file import PROGRESS, ProgressFile, label_status
from pipelines.storage.manifest import Manifest, write_manifest
from pipelines.storage.process_identity import process_start, process_table
from pipelines.storage.store import Store

WORKER = """
import sys, time
from pipelines.storage.manifest import Store
from pipelines.label.output.writer import Commit
from pipelines.label.reporting.progress_file import ProgressFile
with ProgressFile(Store(sys.argv[1])) as live:
    live.begin(1000, 100, lambda: {"engines": 2, "busy_share": 0.5})
    live.update(300, 1000, 290, {"unparsable": 10}, 30000, 9000)
    live.write()
    print("working", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "out/labels"))


@pytest.fixture
def run_file(tmp_path: Path) -> str:
    run = {
        "name": "small",
        "output": str(tmp_path / "out"),
        "task": "arithmetic",
        "corpus": {"train": "nowhere.jsonl"},
        "teacher": {"engine": "echo"},
        "student": {"model": "some/model"},
    }
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(run))
    return str(file)


@pytest.fixture
def worker(store: Store) -> Iterator[subprocess.Popen[str]]:
    """Another process that labels."""
    process = subprocess.Popen([sys.executable, "-c", WORKER, store.uri], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def status(run_file: str, *options: str) -> Any:
    result = CliRunner().invoke(main, ["status", run_file, *options])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout) if "--json" in options else result.stdout


def commit(
    store: Store, number: int, accepted: int, engine_errors: int = 0, scan: dict[str, Any] | None = None
) -> None:
    tally = Counts(accepted=accepted, rejected=Counter(engine_error=engine_errors))
    store.write("attempt.json", b"{}")
    store.write(f"commits/{number:06d}.json", Commit({}, tally, scan=scan).as_json())


def finish(store: Store, kind: Any = "labels") -> None:
    counts = {"read": 3, "accepted": 2, "rejected": 1, "rejected_by_reason": {"tie": 1}}
    write_manifest(
        store,
        Manifest(type=kind, fingerprint="f" * 64, identity={}, config={}, counts=counts, timings_s={}, versions={},
                 details={}, provenance={}, created="2026-01-02T03:04:05+00:00"),
    )  # fmt: skip


def test_nothing_is_there(run_file: str, tmp_path: Path) -> None:
    assert {s["state"] for s in status(run_file, "--json")["stages"].values()} == {"not begun"}
    assert not (tmp_path / "out").exists()


def test_finished_says_when_and_how_many(run_file: str, store: Store, tmp_path: Path) -> None:
    finish(store)
    finish(Store(str(tmp_path / "out/student")), "student")
    label, train, evaluate = status(run_file).splitlines()
    assert label == "label     finished     2026-01-02T03:04:05+00:00: read 3, accepted 2, rejected 1"
    assert train.startswith("train     finished     2026-01-02")
    assert evaluate == "evaluate  not begun"


def test_unfinished_training_is_seen(run_file: str, tmp_path: Path) -> None:
    Store(str(tmp_path / "out/training/abc/tokens")).write("part-0.parquet", b"")
    assert status(run_file, "--json")["stages"]["train"]["state"] == "begun"


def test_a_grid_under_way_says_how_many_cells_there_are(run_file: str, tmp_path: Path) -> None:
    compare = Store(str(tmp_path / "out/compare"))
    report = {"groups": [{"cells": [1, 2]}, {"cells": [3]}], "missing": [4]}
    compare.write("report.json", json.dumps(report).encode())
    assert status(run_file, "--json")["stages"]["compare"] == {"state": "begun", "cells": {"done": 3, "missing": 1}}
    assert status(run_file).splitlines()[-1].startswith("compare   begun        3 cells are finished, 1 are not; ")
    finish(compare, "comparison")
    assert status(run_file, "--json")["stages"]["compare"]["state"] == "finished"


def test_a_running_process_is_seen_and_its_death_at_once(
    run_file: str, store: Store, worker: subprocess.Popen[str]
) -> None:
    commit(store, 0, 0, scan={"rows": {"train": 900, "heldout": 100}, "splits": []})
    commit(store, 1, 100, engine_errors=7)
    line = status(run_file).splitlines()[0]
    assert line.startswith("label     running      300/1,000 rows, ")
    assert (
        "96.7% accepted, 3.3% rejected (unparsable 3.3%), tokens 30,000 in, 9,000 out, engines 2, busy share 0.50"
        in line
    )
    assert f"pid {worker.pid} on " in line
    found = status(run_file, "--json")["stages"]["label"]
    assert (found["state"], found["pid"], found["resumed_at_rows"]) == ("running", worker.pid, 100)

    worker.kill()
    # Not yet waited for, so that its pid is still taken: a zombie is no worker either.
    deadline = time.monotonic() + 10
    while status(run_file, "--json")["stages"]["label"]["state"] == "running":
        assert time.monotonic() < deadline
    line = status(run_file).splitlines()[0]
    assert line == f"label     interrupted  100 of 1,000 rows are finished; `raystill label {run_file}` goes on"


def test_a_silent_process_is_still_running(store: Store, worker: subprocess.Popen[str]) -> None:
    """An engine may need minutes to start: that its process lives counts, however old the file is."""
    assert label_status(store, wall_clock=lambda: time.time() + 3600).state == "running"


def written(store: Store) -> dict[str, Any]:
    """The content of a progress file of this process."""
    ProgressFile(store).write()
    return dict(json.loads(store.read(PROGRESS)))


def test_another_machine_is_believed_for_thirty_seconds(store: Store) -> None:
    content = written(store)
    store.write(PROGRESS, json.dumps(content | {"host": "elsewhere", "processes": "another boot"}).encode())
    assert label_status(store, wall_clock=lambda: content["updated_s"] + 29).state == "running"
    assert label_status(store, wall_clock=lambda: content["updated_s"] + 31).state == "interrupted"


def test_a_pid_that_another_process_has_by_now_is_nobody(store: Store) -> None:
    content = written(store)
    assert label_status(store).state == "running"
    store.write(PROGRESS, json.dumps(content | {"process": content["process"] - 1}).encode())
    assert label_status(store).state == "interrupted"


def test_an_error_ends_the_work_and_success_leaves_nothing(store: Store) -> None:
    def fail() -> None:
        with ProgressFile(store):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert label_status(store).state == "interrupted"
    store.write(f"{PROGRESS}.0123.tmp", b"what a kill left")
    with ProgressFile(store):
        assert label_status(store).state == "running"
        finish(store)
    assert label_status(store).state == "finished"
    assert store.files() == ["manifest.json"]


def test_the_file_is_written_while_nothing_is_finished(run_file: str, store: Store) -> None:
    """An engine may take minutes to start; whoever looks from another machine must see that somebody is there."""
    with ProgressFile(store, every_s=0.05):
        assert status(run_file).splitlines()[0].startswith("label     running      scanning the corpus, pid ")
        first = json.loads(store.read(PROGRESS))["updated_s"]
        deadline = time.monotonic() + 10
        while json.loads(store.read(PROGRESS))["updated_s"] == first:
            assert time.monotonic() < deadline


def test_whoever_asked_for_the_size_reads_all_of_what_is_written_next(store: Store) -> None:
    live, sizes = ProgressFile(store), set()
    for done in (0, 10**9):
        live.update(done, 10**9, done, dict.fromkeys(REJECT_REASONS, done), done, done)
        live.write()
        sizes.add(len(store.read(PROGRESS)))
    assert len(sizes) == 1


def test_rate_and_time_left(store: Store) -> None:
    at = 0.0
    live = ProgressFile(store, clock=lambda: at)
    at = 60.0  # the scan
    live.begin(1000, 100)
    for done in range(200, 501, 100):
        at += 10.0
        live.update(done, 1000, done, {}, 0, 0)
    live.write()
    content = json.loads(store.read(PROGRESS))
    assert content["rows_per_s"] == pytest.approx(10)
    assert content["seconds_left"] == pytest.approx(50)


def test_updates_cost_the_loop_next_to_nothing(store: Store) -> None:
    with ProgressFile(store) as live:
        began = time.perf_counter()
        for done in range(100_000):
            live.update(done, 100_000, done, {"tie": 1}, 0, 0)
        assert time.perf_counter() - began < 5  # measured: 4 microseconds each


def test_a_folder_that_cannot_be_written_is_told_once_and_ends_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels").write_text("a file where the folder should be")
    live = ProgressFile(Store(str(tmp_path / "labels")))
    live.write()
    live.write()
    assert capsys.readouterr().err.count("cannot be written") == 1


def test_a_torn_or_foreign_progress_file_is_no_sign_of_life(store: Store) -> None:
    commit(store, 0, 7)
    for content in (b"", b"{", b"[]", b'{"format": 99}'):
        store.write(PROGRESS, content)
        found = label_status(store)
        assert (found.state, found.detail) == ("interrupted", {"rows": 7, "total": None})


def test_follow_ends_with_the_work(run_file: str, store: Store, worker: subprocess.Popen[str]) -> None:
    """It ends with 0 when the manifest appears, with 1 and the command that goes on when the process dies."""
    follow = [sys.executable, "-m", "cluster", "status", run_file, "--follow", "--json"]
    with subprocess.Popen(follow, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert follower.stderr is not None
        assert json.loads(follower.stdout.readline())["stages"]["label"]["state"] == "running"
        worker.kill()
        worker.wait()
        *_, last = follower.stdout
        assert json.loads(last)["stages"]["label"]["state"] == "interrupted"
        assert f"`raystill label {run_file}` goes on" in follower.stderr.read()
        assert follower.wait(timeout=30) == 1
    finish(store)
    assert subprocess.run(follow, capture_output=True, check=False).returncode == 0


def test_status_loads_nothing_heavy(run_file: str, store: Store) -> None:
    commit(store, 0, 7)
    code = (
        "import sys; from click.testing import CliRunner; from cluster.cli import main\n"
        f"assert CliRunner().invoke(main, ['status', {run_file!r}]).exit_code == 0\n"
        "print([m for m in ('ray', 'torch', 'vllm', 'transformers', 'datasets') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_own_process_is_found() -> None:
    assert process_start(1 << 30) is None
    assert process_table() == process_table() != ""
