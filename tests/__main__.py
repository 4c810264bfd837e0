"""pytest, for tests that start Ray in its process: `python -m tests -m integration`.

Each `ray.init` of a process after its first one leaves a thread behind, which `ray.shutdown` does not end (Ray 2.60: the reader that
exports metrics each ten seconds). What it cannot send it warns of, by a logger that exit() takes down while the thread still runs: the
process ends with a segmentation fault, though all tests have passed. So it ends here without the destructors of C++ libraries. What was
registered in Python for its end is done.
"""

from __future__ import annotations

import atexit
import os
import sys

import pytest

if __name__ == "__main__":
    status = int(pytest.main())
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
