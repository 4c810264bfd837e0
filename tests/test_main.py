"""The process that tests with Ray run in ends as pytest's would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TEST = """
import atexit


def test_it():
    atexit.register(print, "what was registered is done")
    assert {holds}
"""


@pytest.mark.parametrize(("holds", "status", "said"), [(True, 0, "1 passed"), (False, 1, "1 failed")])
def test_it_ends_with_the_status_of_its_tests(tmp_path: Path, holds: bool, status: int, said: str) -> None:
    file = tmp_path / "test_it.py"
    file.write_text(TEST.format(holds=holds))
    command = [sys.executable, "-m", "tests", str(file), "--rootdir", str(tmp_path), "-p", "no:cacheprovider"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    assert ended.returncode == status, ended.stdout
    assert said in ended.stdout
    assert "what was registered is done" in ended.stdout
