"""A local Ray for tests, with its own folder and ports. All tests of a process share it, since a start costs seconds."""

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.commands import environment, sockets_folder

_running: dict[str, int] = {}


@contextmanager
def local_ray(**resources: int) -> Iterator[None]:
    """Ray with 8 logical CPUs and one logical GPU, unless `resources` differ. It stays for the next block.

    A block with other resources replaces it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", _folder())
        _start({"num_cpus": 8, "num_gpus": 1, **resources})
        yield


def shared_environment() -> dict[str, str]:
    """The environment of a command that uses this process' Ray instead of starting its own."""
    import ray

    with local_ray():
        # Ray has set the mode of the token when it started.
        mode = {"RAY_AUTH_MODE": os.environ["RAY_AUTH_MODE"]} if "RAY_AUTH_MODE" in os.environ else {}
        return environment() | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address} | mode


def _start(resources: dict[str, int]) -> None:
    import ray

    if ray.is_initialized() and resources == _running:
        return
    ray.shutdown()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        patch.setenv("RAY_metrics_report_interval_ms", "1000")
        ray.init(address="local", include_dashboard=False, log_to_driver=False, **resources)  # type: ignore[arg-type]
    _running.clear()
    _running.update(resources)


@functools.cache
def _folder() -> str:
    """One folder per process: Ray Data keeps writing to the log file of the first session and may reopen it."""
    return sockets_folder()
