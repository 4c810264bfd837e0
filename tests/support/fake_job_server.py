"""Stands in for Ray's JobSubmissionClient: jobs in a dictionary, and a connection that breaks on demand."""

from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import ray


class FakeJobServer:
    def __init__(self) -> None:
        self._server_ray_version = ray.__version__
        self.jobs: dict[str, Any] = {}
        self.submitted: list[dict[str, Any]] = []
        self.log = "one\ntwo\nthree\n"
        self.log_is_lost = False
        self.tail_errors: list[Exception] = []
        """Raised by the tail of the log, one per attempt."""
        self.info_errors: Iterator[Exception] = iter(())
        """Raised by requests for a job after the first, one per request."""
        self.stops = True
        self._requests = 0

    def submit_job(self, **arguments: Any) -> str:
        job_id = str(arguments["submission_id"])
        if job_id in self.jobs:
            raise RuntimeError(f"Job with submission_id {job_id} already exists.")
        self.submitted.append(arguments)
        self.put(job_id, "PENDING", arguments["metadata"])
        return job_id

    def put(self, job_id: str, status: str, metadata: dict[str, str] | None = None) -> None:
        self.jobs[job_id] = SimpleNamespace(
            submission_id=job_id, status=status, message=None, metadata=metadata, start_time=1000, end_time=None,
            driver_exit_code=None,
        )  # fmt: skip

    def list_jobs(self) -> list[Any]:
        return list(self.jobs.values())

    def get_job_info(self, job_id: str) -> Any:
        self._requests += 1
        if self._requests > 1 and (error := next(self.info_errors, None)):
            raise error
        if job_id not in self.jobs:
            raise RuntimeError(f"Request failed with status code 404: Job {job_id} does not exist.")
        return self.jobs[job_id]

    def get_job_logs(self, job_id: str) -> str:
        if self.log_is_lost:
            raise RuntimeError("Request failed with status code 500: Traceback ...\nNo route to the node")
        return self.log

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        """Part of the log, a break if one is due, the rest; the job then succeeds."""
        yield self.log[:4]
        if self.tail_errors:
            raise self.tail_errors.pop(0)
        yield self.log[4:8]
        self.jobs[job_id].status = "SUCCEEDED"

    def stop_job(self, job_id: str) -> None:
        if self.stops:
            self.jobs[job_id].status = "STOPPED"
