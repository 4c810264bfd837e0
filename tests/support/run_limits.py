"""A test run that always ends: hooks for tests that hang in C code, and for workers of pytest-xdist that die.

pytest-timeout raises an error in the main thread, which Python code notices and a hanging call of a library does not.
"""

import faulthandler
import os
import time
from contextlib import suppress
from typing import Any

import psutil
import pytest

GRACE_S = 60.0
"""From the timeout of a test to the end of its process."""
TEARDOWN_S = 300.0
GIVE_UP_S = 20.0
_stderr: list[int] = []


def pytest_configure() -> None:
    _stderr.append(os.dup(2))  # capturing replaces it


def end_process_after(seconds: float) -> None:
    """End this process with the stacks of its threads. pytest-xdist then names the test."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=_stderr[-1])


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_timeout_set_timer(settings: Any) -> None:
    end_process_after(settings.timeout + GRACE_S)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown() -> None:
    """A failure has cancelled all timers, and the fixtures may hang like their test."""
    end_process_after(TEARDOWN_S)


@pytest.hookimpl(trylast=True)
def pytest_runtest_logfinish() -> None:
    faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Kill what a dead worker has left running: commands, servers and its Ray."""
    if error:
        end_processes(node.workerinput["testrunuid"], node.gateway.id)


def end_processes(run: str, worker: str) -> None:
    """Kill the processes of a worker, until none is left."""
    deadline = time.monotonic() + GIVE_UP_S
    while (left := processes_of(run, worker)) and time.monotonic() < deadline:
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=1)


def processes_of(run: str, worker: str) -> list[psutil.Process]:
    """The processes that have inherited the worker's name, and their children, whose titles may hide it."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            given = process.environ()
            if (given.get("PYTEST_XDIST_TESTRUNUID"), given.get("PYTEST_XDIST_WORKER")) == (run, worker):
                found |= {one.pid: one for one in (process, *process.children(recursive=True))}
    return [process for process in found.values() if is_alive(process)]


def is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False
