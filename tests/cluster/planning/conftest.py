from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.planned_runs import write_run


@pytest.fixture
def run_file(tmp_path: Path) -> str:
    """A run of 50 training and 10 held-out rows, nothing of which is made."""
    return write_run(tmp_path)
