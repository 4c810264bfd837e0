"""Stages as jobs of a Ray cluster: submit, follow, look at, stop.

A job's id is derived from run and stage: `raystill-svamp-label-1f2e3d4c`, the hash being of the output. Submitting again while it runs
attaches to it. One that has ended is followed by another attempt with `-2`, `-3` at its end, which goes on from what is finished: Ray
takes no id twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import yaml

from cluster.code_version import code_folders, code_hash
from cluster.environment import DRIVER_CPUS, only_given_address, use_ray_token
from cluster.jobs.package import RUN_FILE, write_package
from cluster.session.connection import (
    REACH_DASHBOARD,
    NoAnswerError,
    alive_nodes,
    dashboard_url,
    other_version,
    ray_errors,
)
from pipelines.config import RunConfig
from pipelines.config.load import parse_run
from pipelines.errors import RaystillError, StageFailedError, UserError
from pipelines.runtime.durations import duration
from pipelines.storage.filesystems import shown
from pipelines.storage.fingerprint import fingerprint

_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_ID = re.compile(r"raystill-.+-[0-9a-f]{8}(?:-(\d+))?")
_POLL_S = 1.0
_TALKERS = (
    "ray.dashboard.modules.job.sdk",
    "ray.dashboard.modules.dashboard_sdk",
    "ray._private.runtime_env.packaging",
)
"""Ray's loggers that tell of every upload."""
_STOP_S = 60.0
_AWAY_S = 300.0
"""How long a cluster that a job is followed on may be out of reach: a port-forward, or a head, that starts anew."""
_AGAIN_S = 10.0
"""The longest wait between two tries to reach it."""
_SILENT_S = 120.0
"""After so long without a word the log is asked for anew: of a connection that is cut off nobody tells."""


class JobFailedError(RaystillError):
    """A job has ended without its artifact; exits with the exit code of its driver."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class LeftError(RaystillError):
    """A command that follows a job was ended, or nobody reads what it writes. The job runs on."""

    exit_code = 130


@dataclass(frozen=True)
class Job:
    """One job of ours."""

    id: str
    status: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    message: str
    metadata: Mapping[str, str]
    started_s: float | None
    ended_s: float | None
    exit_code: int | None

    @property
    def ended(self) -> bool:
        """Whether it has come to its end."""
        return self.status in _ENDED

    @property
    def attempt(self) -> int:
        """1 for the first."""
        found = _ID.fullmatch(self.id)
        return int(found[1] or 1) if found else 1


@dataclass(frozen=True)
class Driver:
    """Where a job's driver runs, and what it is given."""

    cpus: float = 0.0
    """With 0 and no resources Ray puts it on the head node."""
    resources: Mapping[str, float] | None = None
    environment: Mapping[str, str] | None = None
    installed: bool = False
    """The cluster's image has our code: none travels."""


class _Copy:
    """Writes a text that is given again and again, each time from its start and longer, once."""

    def __init__(self, out: TextIO) -> None:
        self._out, self._written = out, 0

    def from_start(self, text: str) -> None:
        """Raises LeftError where nobody reads it any more: `raystill logs -f ID | head`."""
        try:
            self._out.write(text[self._written :])
            self._out.flush()
        except OSError as error:  # which is none of the connection's
            raise LeftError(f"The log cannot be written ({error}). The job runs on.") from error
        self._written = max(self._written, len(text))


def job_name(run: RunConfig, stage: str) -> str:
    """The id of a run's stage, without attempt."""
    return f"raystill-{run.name}-{stage}-{fingerprint({'output': run.output})[:8]}"


class Jobs:
    """The jobs of a cluster."""

    def __init__(self, address: str) -> None:
        """Raises UserError where no Ray answers, it wants a token, or it is of another version."""
        use_ray_token()
        from ray.job_submission import JobSubmissionClient

        for name in _TALKERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        self.address = dashboard_url(address)
        with self._said(), only_given_address():
            self._client = JobSubmissionClient(self.address)
        self._check_version()

    def submit(
        self, run: RunConfig, stage: str, driver: Driver, *, shared: Sequence[str] = (), command: Sequence[str] = ()
    ) -> tuple[Job, bool]:
        """The job of a run's stage, and whether it is a new one.

        Args:
            shared: folders that every node has under the same path.
            command: more arguments for the stage's command.

        Raises:
            UserError: the job runs with other settings or code, or a path of the run is one that the cluster does not see.
        """
        name = job_name(run, stage)
        with tempfile.TemporaryDirectory(prefix="raystill-") as scratch:
            write_package(run, Path(scratch), shared=shared, same_machine=self._on_this_machine())
            settings = _settings(Path(scratch), driver, command)
            before = self.of(name)
            if before and not before[-1].ended:
                return self._attached(before[-1], settings), False
            job_id = f"{name}-{before[-1].attempt + 1}" if before else name
            runtime: dict[str, Any] = {"working_dir": scratch}
            if not driver.installed:
                runtime["py_modules"] = [str(folder) for folder in code_folders()]
            own = {DRIVER_CPUS: f"{driver.cpus:g}"} if driver.cpus else {}
            if driver.environment or own:
                runtime["env_vars"] = {**(driver.environment or {}), **own}
            with self._said():
                try:
                    self._client.submit_job(
                        entrypoint=shlex.join(["python", "-m", "cluster", stage, RUN_FILE, *command]),
                        submission_id=job_id, runtime_env=runtime, entrypoint_num_cpus=driver.cpus or None,
                        entrypoint_resources=dict(driver.resources) if driver.resources else None,
                        metadata={"raystill": stage, "run": run.name, "output": shown(run.output), "settings": settings},
                    )  # fmt: skip
                except RuntimeError as error:
                    if "already exists" not in str(error):
                        raise
                    return self._attached(self.job(job_id), settings), False  # another shell was faster
        return self.job(job_id), True

    def no_place(self, driver: Driver) -> str | None:
        """Why no node that is there can hold the driver; None where one can."""
        wanted = {**({"CPU": driver.cpus} if driver.cpus else {}), **(driver.resources or {})}
        nodes = [node.resources_total for node in alive_nodes(self.address)] if wanted else [{}]
        if any(all(node.get(kind, 0) >= each for kind, each in wanted.items()) for node in nodes):
            return None
        each = ", ".join(f"{kind} {amount:g} (the largest has {max((n.get(kind, 0) for n in nodes), default=0):g})"
                         for kind, amount in wanted.items())  # fmt: skip
        return f"no node of the cluster has room for the driver: {each}; unless a node comes, Ray fails the job after 15 minutes"

    def of(self, name: str = "") -> list[Job]:
        """Our jobs, the oldest first; of one run's stage where its name is given."""
        with self._said():
            listed = self._client.list_jobs()
        ours = [_job(details) for details in listed if details.submission_id and _ID.fullmatch(details.submission_id)]
        if name:
            ours = [job for job in ours if job.id == name or re.fullmatch(rf"{re.escape(name)}-\d+", job.id)]
            return sorted(ours, key=lambda job: job.attempt)
        return sorted(ours, key=lambda job: job.started_s or 0.0)

    def job(self, job_id: str) -> Job:
        """One job. Raises UserError where there is none of that id."""
        found = self._found(job_id)
        if found is None:
            remedy = f"`raystill status --address {self.address}` lists its jobs."
            raise UserError(f"job {job_id}", "the cluster has no such job", remedy)
        return found

    def logs(self, job_id: str) -> str:
        """What a job has written so far."""
        with self._said():
            return str(self._client.get_job_logs(job_id))

    def follow(self, job_id: str, out: TextIO) -> Job:
        """Copy what a job writes until it has ended, however often the connection breaks meanwhile.

        Raises:
            UserError: there is no such job.
            StageFailedError: the cluster is out of reach for five minutes.
        """
        import aiohttp

        job, copy = self.job(job_id), _Copy(out)
        while True:
            with contextlib.suppress(RuntimeError, OSError, aiohttp.ClientError):
                asyncio.run(self._tail(job_id, copy))
            job = self._still(job)
            if job.ended:
                with contextlib.suppress(UserError):  # the log is where the driver ran, which may be gone
                    copy.from_start(self.logs(job_id))
                return job
            time.sleep(_POLL_S)

    def stop(self, job_id: str) -> Job:
        """Stop a job and wait until it has ended; what it has finished stays.

        Raises:
            UserError: there is none of that id.
            StageFailedError: it does not end within a minute.
        """
        job = self.job(job_id)
        if job.ended:
            return job
        with self._said():
            self._client.stop_job(job_id)
        until = time.monotonic() + _STOP_S
        while not (job := self.job(job_id)).ended:
            if time.monotonic() >= until:
                asked = f"{job_id} was asked to stop and is still {job.status.lower()} after {duration(_STOP_S)}. "
                if job.status == "PENDING":
                    raise StageFailedError(
                        f"{asked}Its driver has not started; Ray fails it where none does for 15 minutes."
                    )
                raise StageFailedError(f"{asked}The same command asks again.")
            time.sleep(_POLL_S)
        return job

    def _found(self, job_id: str) -> Job | None:
        """One job; None where there is none of that id."""
        with self._said():
            try:
                return _job(self._client.get_job_info(job_id))
            except RuntimeError as error:
                # Both: what stands before a head that is down may say 404 too.
                if "404" in str(error) and "does not exist" in str(error):
                    return None
                raise

    def _still(self, job: Job) -> Job:
        """How it stands with a job that was there, of a cluster that may be out of reach meanwhile. Raises StageFailedError."""
        began, wait, told = time.monotonic(), _POLL_S, False
        while True:
            try:
                found = self._found(job.id)
            except NoAnswerError as error:
                if time.monotonic() - began >= _AWAY_S:
                    raise StageFailedError(
                        f"{error.value}: {error.rule}, for {duration(_AWAY_S)} by now. {job.id} may run on: "
                        f"`raystill logs {job.id} --address {self.address} -f` follows it again."
                    ) from error
                if not told:
                    line = f"{error.value}: {error.rule}; it is asked again for {duration(_AWAY_S)}, the job may run on"
                    print(line, file=sys.stderr, flush=True)
                time.sleep(wait)
                wait, told = min(2 * wait, _AGAIN_S), True
                continue
            # A head that starts anew without its state knows of no job, and has ended all of them.
            return found or replace(job, status="FAILED", message="its cluster does not know it any more")

    async def _tail(self, job_id: str, copy: _Copy) -> None:
        """Copy the log as it grows, which comes from its start. Raises TimeoutError where nothing comes for two minutes."""
        seen, clock = "", asyncio.get_running_loop().time
        async with asyncio.timeout(_SILENT_S) as limit:
            async for text in self._client.tail_job_logs(job_id):
                limit.reschedule(clock() + _SILENT_S)
                seen += text
                copy.from_start(seen)

    def _attached(self, job: Job, settings: str) -> Job:
        if job.metadata.get("settings") not in (None, settings):
            rule = "it runs with other settings, or other code, than these"
            remedy = (
                f"Follow it (`raystill logs {job.id} --address {self.address} -f`), stop it (`raystill stop {job.id} --address "
                f"{self.address}`), or set another output."
            )
            raise UserError(f"job {job.id}", rule, remedy)
        return job

    def _on_this_machine(self) -> bool:
        """Whether every node of the cluster runs on this machine."""
        from ray.util import get_node_ip_address

        nodes = alive_nodes(self.address)
        return bool(nodes) and {node.node_ip for node in nodes} <= {get_node_ip_address(), "127.0.0.1"}

    def _check_version(self) -> None:
        import ray

        there = str(self._client._server_ray_version)
        if there.split(".")[:2] != ray.__version__.split(".")[:2]:
            raise other_version(f"cluster {self.address}", f"Ray {there}", f"Ray {ray.__version__}")

    def _said(self) -> contextlib.AbstractContextManager[None]:
        return ray_errors(f"cluster {self.address}", REACH_DASHBOARD)


def _settings(package: Path, driver: Driver, command: Sequence[str]) -> str:
    """Digest of what makes a job another one: the run, files that travel, code, variables, the driver's place, the command but for
    --verbose."""
    files = {
        file.relative_to(package).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in package.rglob("*")
        if file.is_file() and file != package / RUN_FILE
    }
    # With what it does not set: a default that is written out is no other setting.
    run = parse_run(yaml.safe_load((package / RUN_FILE).read_text(encoding="utf-8")))
    return fingerprint(
        {
            "run": run.model_dump(mode="json"),
            "files": files,
            "command": [argument for argument in command if argument != "--verbose"],
            "environment": dict(driver.environment or {}),
            "driver": [driver.cpus, dict(driver.resources or {})],
            "code": None if driver.installed else code_hash(),
        }
    )


def _job(details: Any) -> Job:
    milliseconds = (details.start_time, details.end_time)
    started, ended = (None if at is None else at / 1000 for at in milliseconds)
    status = getattr(details.status, "value", details.status)
    return Job(
        str(details.submission_id), str(status), details.message or "", dict(details.metadata or {}), started, ended,
        details.driver_exit_code,
    )  # fmt: skip
