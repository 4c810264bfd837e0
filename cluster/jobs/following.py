"""What following a job of a Ray cluster and following a RayJob have in common: the user leaves, or the server is unreachable."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO, TypeVar

from cluster.jobs.job import DetachedError
from cluster.session.connection import UnreachableError
from pipelines.errors import StageFailedError
from pipelines.runtime.durations import duration

T = TypeVar("T")
_UNREACHABLE_S = 300.0
"""How long a server may be unreachable: a port-forward or a head restarts, an API server is upgraded."""
_RETRY_S = 1.0
_MAX_RETRY_S = 10.0


@contextmanager
def detach_on_interrupt(follow: str, stop: str) -> Iterator[None]:
    """Ctrl-C ends the command, not the job: say so, with the commands that follow and stop it."""
    try:
        yield
    except KeyboardInterrupt:
        message = f"Interrupted. The job keeps running. Follow it: `{follow}`. Stop it: `{stop}`."
        raise DetachedError(message) from None


def answered(ask: Callable[[], T], later: str) -> T:
    """What a server answers. Waits for an unreachable one; raises StageFailedError after five minutes, with `later`."""
    until, wait_s, printed = time.monotonic() + _UNREACHABLE_S, _RETRY_S, False
    while True:
        try:
            return ask()
        except UnreachableError as error:
            problem, limit = f"{error.value}: {error.rule}", duration(_UNREACHABLE_S)
            if time.monotonic() >= until:
                raise StageFailedError(f"{problem}, for {limit}. {later}") from error
            if not printed:
                print(f"{problem}; retrying for {limit}, the job may still be running", file=sys.stderr, flush=True)
            printed = True
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, _MAX_RETRY_S)


def write_log(out: TextIO, text: str) -> None:
    """Write what is new of a log. Raises DetachedError if the output is closed, as by `raystill logs -f ID | head`."""
    try:
        out.write(text)
        out.flush()
    except OSError as error:  # not to be confused with one of the connection
        raise DetachedError(f"The log cannot be written ({error}). The job keeps running.") from error
