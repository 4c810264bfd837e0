"""The file on disk. How `raystill status` shows it: tests/cluster/commands/test_status.py."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from pipelines.label.output.counts import Counts
from pipelines.label.reporting.progress_file import PROGRESS, ProgressFile, is_alive, label_status, read_progress
from pipelines.storage.store import Store

OF_0_1 = {
    "format": 1, "host": "node-7", "pid": 4711, "processes": "<boot> pid:[4026531836]", "process": 88123,
    "started": "2026-01-01T12:00:00+00:00", "ended": False, "resumed_at_rows": 100, "done": 300, "total": 1000, "accepted": 290,
    "rejected_by_reason": {"unparsable": 10}, "tokens": {"prompt": 30000, "output": 9000}, "rows_per_s": 20.0, "seconds_left": 35.0,
    "updated_s": 1767268800.5, "engines": {"engines": 1, "busy_share": 0.97, "deaths": 0},
}  # fmt: skip


def test_the_file_of_0_1_is_read_and_written_unchanged(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write(PROGRESS, json.dumps(OF_0_1).encode().ljust(4096))
    progress = read_progress(store)
    assert progress is not None
    assert list(progress.model_dump().items()) == list(OF_0_1.items())
    assert is_alive(progress, 1767268810.0)
    assert not is_alive(progress, 1767268900.0)
    assert label_status(store, wall_clock=lambda: 1767268810.0).state == "running"


@pytest.mark.parametrize("content", ["{oops", "[]", json.dumps({**OF_0_1, "format": 2}), "{}"])
def test_an_unreadable_file_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / PROGRESS).write_text(content)
    assert read_progress(Store(str(tmp_path))) is None


def test_the_driver_writes_what_readers_expect(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with ProgressFile(store) as live:
        live.begin(10, 2, lambda: {"engines": 1, "busy_share": None, "deaths": 0})
        live.update(5, 10, Counts(accepted=4, rejected=Counter(tie=1), prompt_tokens=9, output_tokens=8))
        live.write()
        content = json.loads(store.read(PROGRESS))
        assert list(content) == list(OF_0_1)
        assert (content["resumed_at_rows"], content["done"], content["rejected_by_reason"]) == (2, 5, {"tie": 1})
        assert content["engines"] == {"engines": 1, "busy_share": None, "deaths": 0}
        assert label_status(store).state == "running"
    assert store.files() == []
    with pytest.raises(KeyboardInterrupt), ProgressFile(store):
        raise KeyboardInterrupt
    assert json.loads(store.read(PROGRESS))["ended"]
