"""A Ray of a test's own: its folder, its ports, nothing left behind."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.commands import sockets_folder


@contextmanager
def local_ray(**resources: int) -> Iterator[None]:
    """Ray while the block runs, with 8 logical CPUs where no other `num_cpus` is asked for."""
    import ray

    before = os.environ.get("RAY_TMPDIR")
    os.environ["RAY_TMPDIR"] = _folder()
    wanted = {"num_cpus": 8, **resources}
    ray.init(address="local", include_dashboard=False, log_to_driver=False, **wanted)
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
    """Of all Rays of this process: Ray Data goes on writing the log file of the first, and may open it anew."""
    return sockets_folder()
