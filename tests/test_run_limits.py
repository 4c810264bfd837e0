"""A run of tests ends although a test hangs or ends its worker."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[1]
LIMITS = """
from tests.support import run_limits
run_limits.GRACE_S = run_limits.TEARDOWN_S = 3.0
pytest_plugins = ["tests.support.run_limits"]
"""
HANG = "while True:\n        try: time.sleep(600)\n        except BaseException: pass\n"
CASES = {
    "ends its worker": "def test():\n    os.abort()\n",
    "ignores its timeout": f"def test():\n    {HANG}",
    "fails, and its fixture hangs": (
        f"@pytest.fixture\ndef hangs():\n    yield\n    {HANG}\ndef test(hangs):\n    assert False\n"
    ),
}


@pytest.mark.full
@pytest.mark.parametrize("case", CASES)
def test_a_run_ends_with_the_name_of_the_test(tmp_path: Path, case: str) -> None:
    (tmp_path / "conftest.py").write_text(LIMITS)
    start = "subprocess.Popen(['sleep', '600'], start_new_session=True).pid"
    head = f"import os, subprocess, time\nimport pytest\nopen('child', 'w').write(str({start}))\n"
    (tmp_path / "test_case.py").write_text(head + CASES[case])
    options = ["-p", "no:cacheprovider", "-n", "1", "--max-worker-restart", "0", "--timeout", "3"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "."], capture_output=True, text=True, check=False, timeout=100,
        cwd=tmp_path, env=environment | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "crashed while running 'test_case.py::test'" in done.stdout
    assert not psutil.pid_exists(int((tmp_path / "child").read_text()))
