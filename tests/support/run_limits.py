"""A test run that always ends: hooks for tests that hang in calls of libraries, and for workers of pytest-xdist that die."""

import faulthandler
import os
import signal
import time
from collections.abc import Generator
from contextlib import suppress
from typing import Any

import psutil
import pytest
from pytest_timeout import is_debugging

GRACE_S = 60.0
"""From the timeout of a test to the end of its process."""
TEARDOWN_S = 300.0
GIVE_UP_S = 20.0
LATE = pytest.StashKey[float]()
"""The timeout of an interrupted test."""
_stderr: list[int] = []


def pytest_configure() -> None:
    _stderr.append(os.dup(2))  # capturing replaces it


def end_process_after(seconds: float) -> None:
    """End this process with the stacks of its threads. pytest-xdist then names the test."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=_stderr[-1])


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool:
    """Interrupt a late test as Ctrl-C does. Calls of Ray drop every other error of a signal handler, and keep waiting."""

    def interrupt(*_: object) -> None:
        if not is_debugging():
            item.stash[LATE] = settings.timeout
            faulthandler.dump_traceback(file=_stderr[-1])
            raise KeyboardInterrupt

    end_process_after(settings.timeout + GRACE_S)
    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, settings.timeout)
    return True


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_timeout_cancel_timer() -> bool:
    signal.setitimer(signal.ITIMER_REAL, 0)
    return True


def failing(item: pytest.Item) -> Generator[None, object, object]:
    """A phase of a test, which fails if it is interrupted."""
    try:
        return (yield)
    except KeyboardInterrupt:
        if LATE not in item.stash:
            raise
        return pytest.fail(f"Timeout (>{item.stash[LATE]:g} s). Its stacks are above, in the output of the run.")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(fixturedef: Any, request: Any) -> Generator[None, object, object]:
    """The next tests of an interrupted fixture fail at once, with its message."""
    try:
        return (yield from failing(request._pyfuncitem))
    except pytest.fail.Exception as error:
        fixturedef.cached_result = (None, fixturedef.cache_key(request), (error, error.__traceback__))
        raise


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    return (yield from failing(item))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """A failure has cancelled all timers, and the fixtures may hang like their test."""
    end_process_after(TEARDOWN_S)
    return (yield from failing(item))


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
