"""A Ray of a test's own: its folder, its ports, nothing left behind."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def local_ray(**resources: int) -> Iterator[None]:
    """Ray while the block runs, with 8 logical CPUs, and `num_gpus` where asked for. Its sockets lie under a short path."""
    import ray

    with tempfile.TemporaryDirectory(prefix="rs-", dir="/tmp") as folder:
        before = os.environ.get("RAY_TMPDIR")
        os.environ["RAY_TMPDIR"] = folder
        ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False, **resources)
        try:
            yield
        finally:
            ray.shutdown()
            if before is None:
                del os.environ["RAY_TMPDIR"]
            else:
                os.environ["RAY_TMPDIR"] = before
