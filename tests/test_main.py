"""`python -m tests` ends like pytest."""

import subprocess
import sys
from pathlib import Path

import pytest

TEST = """
import atexit


def test_it():
    atexit.register(print, "exit handler ran")
    assert {holds}
"""


@pytest.mark.parametrize(("holds", "status", "summary"), [(True, 0, "1 passed"), (False, 1, "1 failed")])
def test_exit_status_is_that_of_the_tests(tmp_path: Path, holds: bool, status: int, summary: str) -> None:
    file = tmp_path / "test_it.py"
    file.write_text(TEST.format(holds=holds))
    command = [sys.executable, "-m", "tests", str(file), "--rootdir", str(tmp_path), "-p", "no:cacheprovider"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    assert ended.returncode == status, ended.stdout
    assert summary in ended.stdout
    assert "exit handler ran" in ended.stdout
