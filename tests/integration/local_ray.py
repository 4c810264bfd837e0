"""A Ray of a test's own: its folder, its ports, nothing left behind."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def local_ray(**resources: int) -> Iterator[None]:
    """Ray while the block runs, with 8 logical CPUs where no other `num_cpus` is asked for. Its sockets lie under a short path."""
    import ray

    with tempfile.TemporaryDirectory(prefix="rs-", dir="/tmp") as folder:
        before = os.environ.get("RAY_TMPDIR")
        os.environ["RAY_TMPDIR"] = folder
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
