"""Follow a job's log until the job ends, across lost connections and restarts of the head."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from typing import TextIO

from cluster.jobs.client import POLL_S, JobClient
from cluster.jobs.following import answered, write_log
from cluster.jobs.job import Job
from pipelines.errors import UserError

_SILENT_S = 120.0
"""After so long without output the log is requested again: a cut connection raises no error."""


class _LogCopy:
    """Writes a log that arrives repeatedly, each time from its start and longer, once."""

    def __init__(self, out: TextIO) -> None:
        self._out, self._length = out, 0

    def update(self, text: str) -> None:
        """Write what is new. Raises DetachedError if the output is closed."""
        write_log(self._out, text[self._length :])
        self._length = max(self._length, len(text))


def follow(client: JobClient, job_id: str, out: TextIO) -> Job:
    """Copy a job's log to `out` until the job ends.

    Raises:
        UserError: the cluster has no such job.
        StageFailedError: the cluster stays unreachable for five minutes.
    """
    import aiohttp

    job, copy = client.job(job_id), _LogCopy(out)
    while True:
        with contextlib.suppress(RuntimeError, OSError, aiohttp.ClientError):
            asyncio.run(_tail(client, job_id, copy))
        job = _poll(client, job)
        if job.ended:
            with contextlib.suppress(UserError):  # the log may be lost with the driver's node
                copy.update(client.logs(job_id))
            return job
        time.sleep(POLL_S)


async def _tail(client: JobClient, job_id: str, copy: _LogCopy) -> None:
    """Copy the log from its start as it grows. Raises TimeoutError after two minutes without output."""
    text, clock = "", asyncio.get_running_loop().time
    async with asyncio.timeout(_SILENT_S) as limit:
        async for part in client.ray.tail_job_logs(job_id):
            limit.reschedule(clock() + _SILENT_S)
            text += part
            copy.update(text)


def _poll(client: JobClient, job: Job) -> Job:
    """The job's present state. Waits for an unreachable cluster; raises StageFailedError after five minutes."""
    later = f"{job.id} may still be running; follow it with `raystill logs {job.id} --address {client.address} -f`."
    found = answered(lambda: client.find(job.id), later)
    # A head that restarts without its state has ended all jobs and forgotten them.
    return found or replace(job, status="FAILED", message="its cluster has restarted and no longer knows it")
