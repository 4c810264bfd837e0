"""What labelling adds to its progress file. The file itself: tests/pipelines/runtime/test_progress_file.py."""

import json
from collections import Counter
from pathlib import Path

from pipelines.label.output.counts import Counts
from pipelines.label.reporting.progress_file import LabelProgressFile
from pipelines.runtime.progress import Progress
from pipelines.storage.store import PROGRESS, Store


def test_the_driver_writes_what_readers_expect(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with LabelProgressFile(store, "label", "rows") as live:
        live.begin(2, lambda: {"engines": 1, "busy_share": None, "deaths": 0})
        with Progress("label", 10, "rows", start=2, file=live) as progress:
            live.update(Counts(accepted=4, rejected=Counter(tie=1), prompt_tokens=9, output_tokens=8))
            progress.advance(3)
            live.write()
        content = json.loads(store.read(PROGRESS))
        assert (content["resumed_at_rows"], content["done"], content["rejected_by_reason"]) == (2, 5, {"tie": 1})
        assert content["engines"] == {"engines": 1, "busy_share": None, "deaths": 0}
        assert content["rows_per_s"] == content["per_second"] > 0
    assert store.files() == []
