from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.label import stage
from pipelines.label.output.commits import ScanRecord
from pipelines.tasks import task_spec
from tests.support.corpora import run_config, word_problem_rows, write_jsonl


@pytest.mark.parametrize("counted", [False, True])
def test_the_rejects_of_a_scan_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: bool) -> None:
    """Labels that were finished once have them, also if their rows with `engine_error` are retried."""
    taken: list[Any] = []
    scan = ScanRecord({"train": 3}, [], np.empty(0, np.int64))

    class Writer:
        class state:  # noqa: N801
            scan, scan_counted = None, counted

        add_scanned = commit_scan = staticmethod(taken.append)

    def scan_corpus(corpus: object, on_rejects: Any) -> ScanRecord:
        on_rejects("a duplicate")
        return scan

    monkeypatch.setattr(stage, "scan_corpus", scan_corpus)
    run = run_config(train=write_jsonl(tmp_path / "train.jsonl", word_problem_rows(3)))
    assert stage._scan(run, task_spec("arithmetic"), Writer()) is scan  # type: ignore[arg-type]
    assert taken == ([] if counted else ["a duplicate", scan])
