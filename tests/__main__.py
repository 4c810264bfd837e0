"""pytest for tests that start Ray in this process: `python -m tests -m integration`.

Every `ray.init` after the first one leaves a thread that `ray.shutdown` does not end (Ray 2.60: the exporter of metrics). exit() destroys
the logger that this thread uses, and the process ends with a segmentation fault although all tests passed. So this module runs Python's
exit handlers, then ends the process without the destructors of C++ libraries.
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
