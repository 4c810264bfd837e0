"""`progress.json` of any stage: what the driver writes, and what readers make of any file."""

import itertools
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import StageFailedError
from pipelines.runtime.progress import Progress
from pipelines.runtime.progress_file import EVERY_S, EVERY_S_ON_OBJECT_STORES, ProgressFile
from pipelines.runtime.stage_progress import FRESH_S, StageProgress, is_alive, read_progress
from pipelines.storage.manifest import now
from pipelines.storage.process_identity import this_process
from pipelines.storage.store import PROGRESS, Store
from tests.support.endpoints import wait_until


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "student"))


def read(store: Store) -> StageProgress:
    return read_progress(store, StageProgress)  # type: ignore[return-value]


def test_phases_and_counts_are_written_and_removed(store: Store) -> None:
    gauges: list[tuple[int, int | None]] = []
    with ProgressFile(store, "train", "tokens", gauges=lambda *counts: gauges.append(counts)) as live:
        live.phase("tokenising")
        time.sleep(0.01)
        live.write()
        found = read(store)
        assert (found.stage, found.phase, found.done, found.total) == ("train", "tokenising", 0, None)
        assert found.phase_s >= 0.01
        with Progress("train", 900, "tokens", start=100, file=live) as progress:
            progress.advance(0)
            live.write()
            assert read(store).phase == "tokenising", "nothing is counted yet"
            progress.advance(200, "x" * 9000)
            live.write()
        found = read(store)
        assert (found.phase, found.done, found.total, len(found.detail)) == ("", 300, 900, 500)
        assert store.sizes()[PROGRESS] == 4096, "of one size, for readers on object stores"
        assert found.per_second > 0
        assert found.seconds_left is not None
    assert not store.exists(PROGRESS)
    assert gauges[:2] == [(0, None)] * 2
    assert gauges[-1] == (300, 900)


def test_an_error_leaves_a_file_that_says_so_if_the_lock_is_held(store: Store) -> None:
    def check_lock() -> None:
        raise StageFailedError("the lock is lost")

    with ProgressFile(store, "label", "rows", check_lock=check_lock):
        assert not store.exists(PROGRESS)
    with pytest.raises(KeyboardInterrupt), ProgressFile(store, "evaluate", "examples"):
        raise KeyboardInterrupt
    assert read(store).ended
    assert not is_alive(read(store), time.time())


def test_many_updates_cause_few_writes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[str] = []
    monkeypatch.setattr(Store, "write", lambda self, name, data, durable: writes.append(name))
    with (
        ProgressFile(store, "train", "tokens", every_s=0.05) as live,
        Progress("train", 10**6, "tokens", file=live) as progress,
    ):
        began = time.monotonic()
        for _ in range(20_000):
            progress.advance(1)
        elapsed = time.monotonic() - began
    assert 1 <= len(writes) <= elapsed / 0.05 + 3
    assert EVERY_S < EVERY_S_ON_OBJECT_STORES < FRESH_S / 2, "a reader must not miss two writes"


def test_a_new_phase_is_written_at_once(store: Store) -> None:
    with ProgressFile(store, "train", "tokens", every_s=3600) as live:
        for name in ("tokenising", "starting workers", ""):
            live.phase(name)
            wait_until(lambda name=name: read(store).phase == name, 10, every_s=0.01)  # type: ignore[misc]


def test_a_failed_write_is_shown_once(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    Path(store.root).write_text("a file where the folder should be")
    with ProgressFile(store, "compare", "cells") as live:
        live.write()
    assert capsys.readouterr().err.count("compare: ") == 1


def test_clearing_a_folder_keeps_the_file_and_a_new_writer_no_leftovers(store: Store) -> None:
    """Worker 0 clears the student's folder for its export while the driver writes."""
    ours = {PROGRESS, f".{PROGRESS}.abc.tmp"}
    for name in (*ours, "model.safetensors"):
        store.write(name, b"{}")
    store.clear(PROGRESS)
    assert set(os.listdir(store.root)) == ours
    with ProgressFile(store, "train", "tokens"):
        pass
    assert os.listdir(store.root) == []


def content(**changed: Any) -> bytes:
    fields = {**this_process(), "started": now(), "stage": "train", "unit": "tokens", "updated_s": time.time()}
    return json.dumps({**fields, **changed}).encode()


@pytest.mark.parametrize(
    "damaged",
    [None, b"", b" " * 4096, b"{oops", b"[]", b"{}", b"\xff\xfe", content()[:-9], content(format=2), content(stage="dance"),
     content(started="yesterday"), content(per_second=float("nan")), content(seconds_left=float("inf")), content(done="many")],
)  # fmt: skip
def test_a_damaged_file_or_a_folder_is_none(store: Store, damaged: bytes | None) -> None:
    if damaged is None:
        os.makedirs(store.path(PROGRESS))
    else:
        store.write(PROGRESS, damaged)
    assert read_progress(store, StageProgress) is None


@pytest.mark.parametrize(
    ("changed", "age_s", "alive"),
    [
        ({}, 3600.0, True),  # its process is seen here, however old the file is
        ({"ended": True}, 0.0, False),
        ({"process": 1}, 0.0, False),  # another process has its pid now
        ({"processes": "another machine"}, FRESH_S - 1, True),
        ({"processes": "another machine"}, FRESH_S + 1, False),
        ({"processes": ""}, 0.0, True),  # a system without process tables
    ],
)
def test_a_driver_lives_by_process_or_by_age(changed: dict[str, Any], age_s: float, alive: bool) -> None:
    progress = StageProgress.model_validate_json(content(**changed))
    assert is_alive(progress, progress.updated_s + age_s) is alive


def test_the_thread_draws_a_waiting_phase(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """Without it a log would be silent while an engine starts."""
    clock = itertools.count(0.0, 6.0).__next__
    with ProgressFile(store, "label", "rows", every_s=0.01, clock=clock) as live:
        live.phase("starting engine")
        with Progress("label", 1000, "rows", file=live, clock=clock):
            wait_until(lambda: "label: 0/1,000 rows, starting engine, " in capsys.readouterr().err, 10)
