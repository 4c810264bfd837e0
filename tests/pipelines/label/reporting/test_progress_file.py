"""The driver's side. Readers: tests/cluster/commands/test_status.py; a file of 0.1: label/test_version_0_1.py."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import pytest

from pipelines.label.output.counts import Counts
from pipelines.label.reporting.progress_file import PROGRESS, ProgressFile, label_status, read_progress
from pipelines.storage.store import Store


@pytest.mark.parametrize("content", ["{oops", "[]", "{}", '{"format": 2}'])
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
        assert (content["resumed_at_rows"], content["done"], content["rejected_by_reason"]) == (2, 5, {"tie": 1})
        assert content["engines"] == {"engines": 1, "busy_share": None, "deaths": 0}
        assert label_status(store).state == "running"
        hour_later = label_status(store, wall_clock=lambda: time.time() + 3600)
        assert hour_later.state == "running", "its process is seen here"
    assert store.files() == []
    with pytest.raises(KeyboardInterrupt), ProgressFile(store):
        raise KeyboardInterrupt
    assert json.loads(store.read(PROGRESS))["ended"]
