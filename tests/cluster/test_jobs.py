"""Jobs before a stand-in of Ray's client: ids, attempts, attaching, what is said of errors."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import requests

from cluster.cluster_commands import _amounts, _environment
from cluster.jobs import Driver, Jobs, job_name
from pipelines.errors import UserError
from pipelines.run_file import parse_run
from tests.cluster.test_job_package import TREE

RUN = parse_run(TREE)
NAME = job_name(RUN, "label")


class Client:
    """JobSubmissionClient, with jobs in a dictionary."""

    def __init__(self) -> None:
        self._server_ray_version = ray.__version__
        self.jobs: dict[str, Any] = {}
        self.submitted: list[dict[str, Any]] = []
        self.log = "one\ntwo\nthree\n"
        self.breaks = 0

    def submit_job(self, **given: Any) -> str:
        if given["submission_id"] in self.jobs:
            raise RuntimeError(f"Job with submission_id {given['submission_id']} already exists.")
        self.submitted.append(given)
        self.put(given["submission_id"], "PENDING", given["metadata"])
        return str(given["submission_id"])

    def put(self, job_id: str, status: str, metadata: dict[str, str] | None = None, code: int | None = None) -> None:
        self.jobs[job_id] = SimpleNamespace(
            submission_id=job_id,
            status=status,
            message=None,
            metadata=metadata,
            start_time=1000,
            end_time=None,
            driver_exit_code=code,
        )

    def list_jobs(self) -> list[Any]:
        return list(self.jobs.values())

    def get_job_info(self, job_id: str) -> Any:
        if job_id not in self.jobs:
            raise RuntimeError(f"Request failed with status code 404: Job {job_id} does not exist.")
        return self.jobs[job_id]

    def get_job_logs(self, job_id: str) -> str:
        return self.log

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        yield self.log[:4]
        if self.breaks:
            self.breaks -= 1
            raise RuntimeError("WebSocket connection closed unexpectedly")
        yield self.log[4:8]
        self.jobs[job_id].status = "SUCCEEDED"

    def stop_job(self, job_id: str) -> None:
        self.jobs[job_id].status = "STOPPED"


@pytest.fixture(autouse=True)
def _mode_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client lets this process send the token of the machine, which other tests must not."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    made = Client()
    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", lambda address: made)
    monkeypatch.setattr(Jobs, "_on_this_machine", lambda self: False)
    monkeypatch.setattr("cluster.jobs._POLL_S", 0.0)
    return made


def test_an_id_is_derived_from_run_output_and_stage() -> None:
    assert NAME.startswith("raystill-try-label-")
    other = parse_run({**TREE, "output": "s3://bucket/other"})
    assert len({NAME, job_name(RUN, "train"), job_name(other, "label")}) == 3
    assert job_name(parse_run({**TREE, "training": {"epochs": 9.0}}), "label") == NAME


def test_a_job_takes_run_file_code_and_environment_along(client: Client) -> None:
    driver = Driver(cpus=2.0, resources={"head": 1.0}, environment={"A": "b"})
    job, new = Jobs("http://head").submit(RUN, "label", driver, command=["--replace"])
    assert (job.id, job.status, new) == (NAME, "PENDING", True)
    (given,) = client.submitted
    assert given["entrypoint"] == "python -m cluster label run.yaml --replace"
    assert (given["entrypoint_num_cpus"], given["entrypoint_resources"]) == (2.0, {"head": 1.0})
    assert given["runtime_env"]["env_vars"] == {"A": "b"}
    assert len(given["runtime_env"]["py_modules"]) == 3
    Jobs("http://head").submit(RUN, "train", Driver(installed=True))
    assert "py_modules" not in client.submitted[-1]["runtime_env"]


def test_submitting_again_attaches_while_it_runs_and_goes_on_after_its_end(client: Client) -> None:
    jobs = Jobs("http://head")
    jobs.submit(RUN, "label", Driver())
    job, new = jobs.submit(RUN, "label", Driver())
    assert (job.id, new, len(client.submitted)) == (NAME, False, 1)
    client.jobs[NAME].status = "FAILED"
    job, new = jobs.submit(RUN, "label", Driver())
    assert (job.id, new) == (f"{NAME}-2", True)
    client.jobs[job.id].status = "SUCCEEDED"
    assert jobs.submit(RUN, "label", Driver())[0].id == f"{NAME}-3"
    assert [job.attempt for job in jobs.of(NAME)] == [1, 2, 3]


def test_a_job_that_runs_with_other_settings_is_left_alone(client: Client) -> None:
    jobs = Jobs("http://head")
    jobs.submit(RUN, "label", Driver())
    with pytest.raises(UserError, match=f"job {NAME}: it runs with other settings.*raystill stop"):
        jobs.submit(parse_run({**TREE, "corpus": {"train": "s3://bucket/other.jsonl"}}), "label", Driver())


def test_of_two_that_submit_at_once_one_attaches(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = Jobs("http://head")
    jobs.submit(RUN, "label", Driver())
    monkeypatch.setattr(Jobs, "of", lambda self, name="": [])
    job, new = jobs.submit(RUN, "label", Driver())
    assert (job.id, new) == (NAME, False)


def test_other_jobs_of_the_cluster_are_not_ours(client: Client) -> None:
    client.put("raysubmit_1", "RUNNING")
    client.put(f"{NAME}-x", "RUNNING")
    assert Jobs("http://head").of() == []
    with pytest.raises(UserError, match="no such job"):
        Jobs("http://head").job("nothing")


@pytest.mark.parametrize("breaks", [0, 1, 3])
def test_a_log_is_copied_whole_however_often_the_connection_breaks(client: Client, breaks: int) -> None:
    client.put(NAME, "RUNNING")
    client.breaks = breaks
    out = io.StringIO()
    assert Jobs("http://head").follow(NAME, out).status == "SUCCEEDED"
    assert out.getvalue() == client.log


def test_a_job_is_stopped(client: Client) -> None:
    client.put(NAME, "RUNNING")
    assert Jobs("http://head").stop(NAME).status == "STOPPED"


def test_a_cluster_of_another_version_is_refused(client: Client) -> None:
    client._server_ray_version = "2.41.0"
    with pytest.raises(UserError, match=r"it runs Ray 2\.41\.0"):
        Jobs("http://head")


def _raising(error: Exception) -> Any:
    def make(address: str) -> None:
        raise error

    return make


def _http_error(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError("made", response=response)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionError("Failed to connect"), "no Ray answers there"),
        (requests.exceptions.InvalidURL("bad"), "no Ray answers there"),
        (_http_error(401), "it asks for a token"),
        (_http_error(403), "it asks for a token"),
        (_http_error(502), "it answers made"),
        (ray.exceptions.AuthenticationError("no token"), "it asks for a token"),
    ],
)
def test_a_cluster_that_cannot_be_asked_is_said_so(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", _raising(error))
    with pytest.raises(UserError, match=said):
        Jobs("http://head:8265")


def test_resources_and_variables_of_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _amounts(["head=1", "x=0.5"]) == {"head": 1.0, "x": 0.5}
    monkeypatch.setenv("HERE", "value")
    assert _environment(["HERE", "A=b=c", "EMPTY="]) == {"HERE": "value", "A": "b=c", "EMPTY": ""}
    with pytest.raises(UserError, match="NAME=NUMBER"):
        _amounts(["head=one"])
    with pytest.raises(UserError, match="no such variable"):
        _environment(["NOWHERE_TO_BE_FOUND"])
