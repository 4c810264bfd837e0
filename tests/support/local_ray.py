"""A local Ray for a test, with its own folder and ports."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.commands import sockets_folder


@contextmanager
def local_ray(**resources: int) -> Iterator[None]:
    """Ray while the block runs, with 8 logical CPUs unless `num_cpus` is given."""
    import ray

    before = os.environ.get("RAY_TMPDIR")
    os.environ["RAY_TMPDIR"] = _folder()
    settings = {"num_cpus": 8, **resources}
    ray.init(address="local", include_dashboard=False, log_to_driver=False, **settings)
    try:
        yield
    finally:
        ray.shutdown()
        if before is None:
            del os.environ["RAY_TMPDIR"]
        else:
            os.environ["RAY_TMPDIR"] = before


@functools.cache
def _folder() -> str:
    """One folder per process: Ray Data keeps writing to the log file of the first session and may reopen it."""
    return sockets_folder()
