"""What the stage makes of its scan."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.config.load import parse_run
from pipelines.label import stage
from tests.support.run_files import TREE


@pytest.mark.parametrize("counted", [False, True])
def test_the_rejects_of_a_scan_count_once(monkeypatch: pytest.MonkeyPatch, counted: bool) -> None:
    """Labels that were finished once hold them, and were opened again for rows that no engine could answer."""
    taken: list[Any] = []
    sink = SimpleNamespace(scan=None, scan_counted=counted, add_scanned=taken.append, commit_scan=taken.append)

    def scan_corpus(corpus: None, rejects: Any) -> str:
        rejects("a duplicate")
        return "the scan"

    monkeypatch.setattr(stage, "_splits", lambda run: [])
    monkeypatch.setattr(stage, "Corpus", lambda *_: None)
    monkeypatch.setattr(stage, "scan_corpus", scan_corpus)
    found: Any = stage._scan(parse_run(TREE), None, sink)  # type: ignore[arg-type]
    assert found == ([], "the scan")
    assert taken == ([] if counted else ["a duplicate", "the scan"])
