"""The progress file as its driver writes it, and as other processes read it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from pipelines.data.schema import REJECT_REASONS
from pipelines.label.reporting.progress_file import PROGRESS, ProgressFile, label_status
from pipelines.storage.process_identity import process_start, process_table
from pipelines.storage.store import Store
from tests.support.label_folders import commit_labels, finish_artifact


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "out/labels"))


def written(store: Store) -> dict[str, Any]:
    """The content of a progress file of this process."""
    ProgressFile(store).write()
    return dict(json.loads(store.read(PROGRESS)))


def test_another_machine_is_believed_for_thirty_seconds(store: Store) -> None:
    content = written(store)
    store.write(PROGRESS, json.dumps(content | {"host": "elsewhere", "processes": "another boot"}).encode())
    assert label_status(store, wall_clock=lambda: content["updated_s"] + 29).state == "running"
    assert label_status(store, wall_clock=lambda: content["updated_s"] + 31).state == "interrupted"


def test_a_reused_pid_is_another_process(store: Store) -> None:
    content = written(store)
    assert label_status(store).state == "running"
    store.write(PROGRESS, json.dumps(content | {"process": content["process"] - 1}).encode())
    assert label_status(store).state == "interrupted"
    assert process_start(1 << 30) is None
    assert process_table() == process_table() != ""


def test_an_error_leaves_the_file_and_success_removes_it(store: Store) -> None:
    with pytest.raises(RuntimeError), ProgressFile(store):
        raise RuntimeError
    assert label_status(store).state == "interrupted"
    store.write(f"{PROGRESS}.0123.tmp", b"left by a kill")
    with ProgressFile(store):
        assert label_status(store).state == "running"
        finish_artifact(store, "labels")
    assert label_status(store).state == "finished"
    assert store.files() == ["manifest.json"]


def test_the_file_is_written_during_a_scan(store: Store) -> None:
    """Starting an engine may take minutes; readers on other machines must see a sign of life."""
    with ProgressFile(store, every_s=0.05):
        first = json.loads(store.read(PROGRESS))["updated_s"]
        deadline = time.monotonic() + 10
        while json.loads(store.read(PROGRESS))["updated_s"] == first:
            assert time.monotonic() < deadline


def test_the_size_of_the_file_never_changes(store: Store) -> None:
    """A reader on an object store asks for the size first."""
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
    assert (content["rows_per_s"], content["seconds_left"]) == (pytest.approx(10), pytest.approx(50))


def test_updates_cost_the_driver_almost_nothing(store: Store) -> None:
    with ProgressFile(store) as live:
        began = time.perf_counter()
        for done in range(100_000):
            live.update(done, 100_000, done, {"tie": 1}, 0, 0)
        assert time.perf_counter() - began < 5  # measured: 4 microseconds each


def test_a_file_that_cannot_be_written_is_reported_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "labels").write_text("a file where the folder should be")
    live = ProgressFile(Store(str(tmp_path / "labels")))
    live.write()
    live.write()
    assert capsys.readouterr().err.count("cannot be written") == 1


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 99}'])
def test_an_unreadable_file_is_no_sign_of_life(store: Store, content: bytes) -> None:
    commit_labels(store, 0, 7)
    store.write(PROGRESS, content)
    assert label_status(store).state == "interrupted"
