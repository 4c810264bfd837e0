"""Stages as jobs of a Ray cluster: submit, list, stop.

Submitting a stage again while its job runs attaches to it. After the job's end it starts another attempt, which resumes finished work.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from cluster.environment import only_given_address, use_ray_token
from cluster.jobs.job import Driver, Job, is_raystill_id, job_name
from cluster.jobs.submission import Submission, make_submission
from cluster.session.connection import REACH_DASHBOARD, alive_nodes, dashboard_url, ray_errors, version_mismatch
from pipelines.config import RunConfig
from pipelines.errors import StageFailedError, UserError
from pipelines.runtime.compat.ray import server_version, silence_uploads
from pipelines.runtime.durations import duration

POLL_S = 1.0
_STOP_S = 60.0


class JobClient:
    """The jobs of one cluster."""

    def __init__(self, address: str) -> None:
        """`address`: of the head's dashboard. Raises UserError if no Ray answers, the token is wrong, or the version differs."""
        use_ray_token()
        from ray.job_submission import JobSubmissionClient

        silence_uploads()
        self.address = dashboard_url(address)
        with self.errors(), only_given_address():
            self.ray = JobSubmissionClient(self.address)
        self._check_version()

    def submit(
        self, run: RunConfig, stage: str, driver: Driver, *, shared: Sequence[str] = (), arguments: Sequence[str] = ()
    ) -> tuple[Job, bool]:
        """Submit a stage, or attach to its running job.

        Args:
            shared: folders that every node has under the same path.
            arguments: more arguments of the stage's command.

        Returns:
            The job, and whether it is new.

        Raises:
            UserError: the job runs with other settings or code, or the cluster does not see a path of the run.
        """
        name = job_name(run, stage)
        with tempfile.TemporaryDirectory(prefix="raystill-") as scratch:
            submission = make_submission(
                run,
                stage,
                driver,
                Path(scratch),
                shared=shared,
                same_machine=self.on_this_machine(),
                arguments=arguments,
            )
            attempts = self.jobs(name)
            if attempts and not attempts[-1].ended:
                return self._attach(attempts[-1], submission), False
            job_id = f"{name}-{attempts[-1].attempt + 1}" if attempts else name
            if not self._start(submission, job_id):
                return self._attach(self.job(job_id), submission), False
        return self.job(job_id), True

    def placement_problem(self, driver: Driver) -> str | None:
        """Why no present node has room for the driver; None if one has."""
        wanted = {**({"CPU": driver.cpus} if driver.cpus else {}), **driver.resources}
        if not wanted:
            return None
        nodes = [node.resources_total for node in alive_nodes(self.address)]
        if any(all(node.get(kind, 0) >= amount for kind, amount in wanted.items()) for node in nodes):
            return None
        largest = {kind: max((node.get(kind, 0) for node in nodes), default=0) for kind in wanted}
        listed = ", ".join(f"{kind} {amount:g} (the largest has {largest[kind]:g})" for kind, amount in wanted.items())
        return f"no node of the cluster has room for the driver: {listed}; Ray fails the job if none joins within 15 minutes"

    def jobs(self, name: str = "") -> list[Job]:
        """Jobs that Raystill submitted, the oldest first; with a name, the attempts of one run's stage."""
        with self.errors():
            listed = self.ray.list_jobs()
        found = [Job.of(details) for details in listed if is_raystill_id(details.submission_id)]
        if name:
            attempts = re.compile(rf"{re.escape(name)}(-\d+)?")
            return sorted((job for job in found if attempts.fullmatch(job.id)), key=lambda job: job.attempt)
        return sorted(found, key=lambda job: job.started_s or 0.0)

    def job(self, job_id: str) -> Job:
        """One job. Raises UserError if the cluster has no such job."""
        found = self.find(job_id)
        if found is None:
            remedy = f"List its jobs with `raystill status --address {self.address}`."
            raise UserError(f"job {job_id}", "the cluster has no such job", remedy)
        return found

    def find(self, job_id: str) -> Job | None:
        """One job; None if the cluster has no such job."""
        with self.errors():
            try:
                return Job.of(self.ray.get_job_info(job_id))
            except RuntimeError as error:
                # Both words: a proxy before a head that is down also answers 404.
                if "404" in str(error) and "does not exist" in str(error):
                    return None
                raise

    def logs(self, job_id: str) -> str:
        """The job's log so far."""
        with self.errors():
            return str(self.ray.get_job_logs(job_id))

    def stop(self, job_id: str) -> Job:
        """Stop a job and wait for its end. Finished work stays.

        Raises:
            UserError: the cluster has no such job.
            StageFailedError: it does not end within a minute.
        """
        job = self.job(job_id)
        if job.ended:
            return job
        with self.errors():
            self.ray.stop_job(job_id)
        until = time.monotonic() + _STOP_S
        while not (job := self.job(job_id)).ended:
            if time.monotonic() >= until:
                state = f"{job_id} is still {job.status.lower()} {duration(_STOP_S)} after the request to stop. "
                if job.status == "PENDING":
                    raise StageFailedError(f"{state}Its driver has not started; Ray fails it after 15 minutes.")
                raise StageFailedError(f"{state}Run the same command again.")
            time.sleep(POLL_S)
        return job

    def on_this_machine(self) -> bool:
        """True if every node of the cluster runs on this machine."""
        from ray.util import get_node_ip_address

        nodes = alive_nodes(self.address)
        return bool(nodes) and {node.node_ip for node in nodes} <= {get_node_ip_address(), "127.0.0.1"}

    def errors(self) -> AbstractContextManager[None]:
        """Turns what Ray's client raises into a UserError about this cluster."""
        return ray_errors(f"cluster {self.address}", REACH_DASHBOARD)

    def _start(self, submission: Submission, job_id: str) -> bool:
        """Submit under this id. False if another process took the id meanwhile."""
        driver = submission.driver
        with self.errors():
            try:
                self.ray.submit_job(
                    entrypoint=submission.entrypoint,
                    submission_id=job_id,
                    runtime_env=submission.runtime_env,
                    entrypoint_num_cpus=driver.cpus or None,
                    entrypoint_resources=dict(driver.resources) or None,
                    metadata=submission.metadata,
                )
            except RuntimeError as error:
                if "already exists" in str(error):
                    return False
                raise
        return True

    def _attach(self, job: Job, submission: Submission) -> Job:
        if job.metadata.get("settings") not in (None, submission.settings):
            at = f"--address {self.address}"
            remedy = f"Follow it (`raystill logs {job.id} {at} -f`), stop it (`raystill stop {job.id} {at}`), or set another output."
            raise UserError(f"job {job.id}", "it runs with other settings or code", remedy)
        return job

    def _check_version(self) -> None:
        import ray

        there = server_version(self.ray)
        if there.split(".")[:2] != ray.__version__.split(".")[:2]:
            raise version_mismatch(f"cluster {self.address}", f"Ray {there}", f"Ray {ray.__version__}")
