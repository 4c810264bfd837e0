"""Jobs before a stand-in of Ray's client: ids, attempts, attaching, what is said of errors."""

from __future__ import annotations

import asyncio
import io
import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
import ray
import requests
from ray.util.state.exception import RayStateApiException

from cluster.jobs.client import Driver, Jobs, LeftError, job_name
from pipelines.config.load import parse_run
from pipelines.errors import StageFailedError, UserError
from tests.cluster.jobs.test_package import TREE

RUN = parse_run(TREE)
NAME = job_name(RUN, "label")


def _http_error(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError("made", response=response)


class Client:
    """JobSubmissionClient, with jobs in a dictionary."""

    def __init__(self) -> None:
        self._server_ray_version = ray.__version__
        self.jobs: dict[str, Any] = {}
        self.asked = 0
        self.submitted: list[dict[str, Any]] = []
        self.log = "one\ntwo\nthree\n"
        self.breaks: list[Exception] = []
        """What the tail of the log raises, time by time."""
        self.away: Iterator[Exception] = iter(())
        """What asking for a job raises, time by time."""
        self.log_is_gone = False
        self.stops = True

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
        self.asked += 1
        # The first answer is always there: what breaks does so while a job is followed.
        if self.asked > 1 and (error := next(self.away, None)):
            raise error
        if job_id not in self.jobs:
            raise RuntimeError(f"Request failed with status code 404: Job {job_id} does not exist.")
        return self.jobs[job_id]

    def get_job_logs(self, job_id: str) -> str:
        if self.log_is_gone:
            raise RuntimeError("Request failed with status code 500: Traceback ...\nNo route to the node")
        return self.log

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        yield self.log[:4]
        if self.breaks:
            raise self.breaks.pop(0)
        yield self.log[4:8]
        self.jobs[job_id].status = "SUCCEEDED"

    def stop_job(self, job_id: str) -> None:
        if self.stops:
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
    monkeypatch.setattr("cluster.jobs.client._POLL_S", 0.0)
    return made


def test_an_id_is_derived_from_run_output_and_stage() -> None:
    assert NAME.startswith("raystill-try-label-")
    other = parse_run({**TREE, "output": "s3://bucket/other"})
    assert len({NAME, job_name(RUN, "train"), job_name(other, "label")}) == 3
    assert job_name(parse_run({**TREE, "training": {"epochs": 9.0}}), "label") == NAME


def test_a_default_that_is_written_out_is_no_other_setting(client: Client) -> None:
    written = parse_run({**TREE, "training": {"seed": RUN.training.seed}})
    jobs = Jobs("http://head")
    assert [jobs.submit(run, "label", Driver())[1] for run in (RUN, written)] == [True, False]


def test_shots_are_a_part_of_the_job_whatever_their_file_is_called(client: Client, tmp_path: Path) -> None:
    shots = tmp_path / "run.yaml"
    shots.write_text("- one")
    run = parse_run({**TREE, "teacher": {**TREE["teacher"], "shots": str(shots)}})
    jobs = Jobs("http://head")
    jobs.submit(run, "label", Driver())
    shots.write_text("- another")
    with pytest.raises(UserError, match="other settings"):
        jobs.submit(run, "label", Driver())


def test_a_driver_that_no_node_can_hold_is_told_of(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"CPU": 8.0, "head": 1.0}, {"CPU": 64.0, "GPU": 8.0}, {}]
    monkeypatch.setattr(
        "cluster.jobs.client.alive_nodes", lambda _: [SimpleNamespace(resources_total=n) for n in nodes]
    )
    jobs = Jobs("http://head")
    assert jobs.no_place(Driver(cpus=8.0, resources={"head": 1.0})) is None
    assert "CPU 9 (the largest has 64), head 1 (the largest has 1)" in str(
        jobs.no_place(Driver(cpus=9.0, resources={"head": 1.0}))
    )
    assert "haed 1 (the largest has 0)" in str(jobs.no_place(Driver(resources={"haed": 1.0})))
    monkeypatch.setattr("cluster.jobs.client.alive_nodes", lambda _: pytest.fail("nothing is asked for"))
    assert jobs.no_place(Driver()) is None


def test_a_job_takes_run_file_code_and_environment_along(client: Client) -> None:
    driver = Driver(cpus=2.0, resources={"head": 1.0}, environment={"A": "b"})
    job, new = Jobs("http://head").submit(RUN, "label", driver, command=["--replace"])
    assert (job.id, job.status, new) == (NAME, "PENDING", True)
    (given,) = client.submitted
    assert given["entrypoint"] == "python -m cluster label run.yaml --replace"
    assert (given["entrypoint_num_cpus"], given["entrypoint_resources"]) == (2.0, {"head": 1.0})
    assert given["runtime_env"]["env_vars"] == {"A": "b", "RAYSTILL_DRIVER_CPUS": "2"}
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


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({"command": ["--verbose"]}, True),
        ({"command": ["--replace"]}, False),
        ({"driver": Driver(environment={"A": "c"})}, False),
        ({"driver": Driver(environment={"A": "b", "B": ""})}, False),
        ({"driver": Driver(environment={"A": "b"}, cpus=1.0)}, False),
        ({"driver": Driver(environment={"A": "b"}, installed=True)}, False),
    ],
)
def test_a_job_is_attached_to_by_what_it_is_and_not_by_what_it_shows(
    client: Client, changed: dict[str, Any], same: bool
) -> None:
    jobs, given = Jobs("http://head"), {"driver": Driver(environment={"A": "b"}), "command": []}
    jobs.submit(RUN, "label", **given)
    if same:
        assert jobs.submit(RUN, "label", **(given | changed))[1] is False
    else:
        with pytest.raises(UserError, match="other settings, or other code"):
            jobs.submit(RUN, "label", **(given | changed))


def test_edited_code_is_not_the_job_that_runs(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = Jobs("http://head")
    jobs.submit(RUN, "label", Driver())
    monkeypatch.setattr("cluster.jobs.client.code_hash", lambda: "edited")
    with pytest.raises(UserError, match=f"other code.*raystill logs {NAME} --address http://head -f"):
        jobs.submit(RUN, "label", Driver())


def test_an_edited_task_file_is_not_the_job_that_runs(client: Client, tmp_path: Path) -> None:
    task = tmp_path / "task.py"
    task.write_text("one = 1\n")
    run = RUN.model_copy(update={"task": str(task)})
    jobs = Jobs("http://head")
    jobs.submit(run, "label", Driver())
    assert jobs.submit(run, "label", Driver())[1] is False
    task.write_text("one = 2\n")
    with pytest.raises(UserError, match="other settings"):
        jobs.submit(run, "label", Driver())


CUT = RuntimeError("WebSocket connection closed unexpectedly")
REFUSED = requests.ConnectionError("refused")
NO_HANDSHAKE = aiohttp.WSServerHandshakeError(None, (), status=500)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "breaks",
    [
        [],
        [CUT],
        [CUT, aiohttp.ServerDisconnectedError(), aiohttp.ClientPayloadError()],
        [NO_HANDSHAKE, ConnectionResetError()],
    ],
)
@pytest.mark.parametrize("away", [[], [REFUSED, REFUSED], [_http_error(502), RuntimeError("status code 500: a\nb")]])
def test_a_log_is_copied_whole_however_often_the_connection_breaks(
    client: Client, breaks: list[Exception], away: list[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    client.put(NAME, "RUNNING")
    client.breaks, client.away = list(breaks), iter(away)
    out = io.StringIO()
    assert Jobs("http://head").follow(NAME, out).status == "SUCCEEDED"
    assert out.getvalue() == client.log
    assert capsys.readouterr().err.count("the job may run on") == bool(away)


def test_a_job_whose_cluster_stays_away_is_given_up_with_what_follows_it_again(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.jobs.client._AWAY_S", 0.05)
    client.put(NAME, "RUNNING")
    client.breaks, client.away = [CUT], itertools.repeat(REFUSED)
    with pytest.raises(
        StageFailedError, match=f"no Ray answers there, for .*`raystill logs {NAME} --address"
    ) as failed:
        Jobs("http://head").follow(NAME, io.StringIO())
    assert failed.value.exit_code == 1


def test_a_job_whose_log_went_with_its_node_is_followed_to_its_end(client: Client) -> None:
    client.put(NAME, "FAILED")
    client.breaks, client.log_is_gone = [NO_HANDSHAKE], True
    assert Jobs("http://head").follow(NAME, io.StringIO()).status == "FAILED"


def test_a_job_that_a_new_head_does_not_know_has_failed(client: Client) -> None:
    client.put(NAME, "RUNNING")
    gone = RuntimeError(f"Request failed with status code 404: Job {NAME} does not exist.")
    client.breaks, client.away = [CUT], iter([gone])
    ended = Jobs("http://head").follow(NAME, io.StringIO())
    assert (ended.status, ended.message) == ("FAILED", "its cluster does not know it any more")


def test_a_proxy_that_knows_no_page_is_no_head_that_knows_no_job(client: Client) -> None:
    client.put(NAME, "RUNNING")
    client.breaks, client.away = (
        [CUT],
        iter([RuntimeError("Request failed with status code 404: default backend - 404.")]),
    )
    assert Jobs("http://head").follow(NAME, io.StringIO()).status == "SUCCEEDED"


def test_a_log_that_nobody_reads_is_not_followed_for_ever(client: Client) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError("Broken pipe")

    client.put(NAME, "RUNNING")
    with pytest.raises(LeftError, match=r"Broken pipe.* The job runs on"):
        Jobs("http://head").follow(NAME, Closed())


def test_a_job_that_was_never_there_is_not_followed(client: Client) -> None:
    with pytest.raises(UserError, match="no such job"):
        Jobs("http://head").follow("nothing", io.StringIO())


def test_a_log_that_falls_silent_is_asked_for_anew(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is cut off, and not closed, brings no error."""
    monkeypatch.setattr("cluster.jobs.client._SILENT_S", 0.05)
    asked = []

    async def silent_at_first(job_id: str) -> AsyncIterator[str]:
        asked.append(job_id)
        yield client.log[:4]
        if len(asked) == 1:
            await asyncio.sleep(60.0)
        client.jobs[job_id].status = "SUCCEEDED"

    monkeypatch.setattr(client, "tail_job_logs", silent_at_first)
    client.put(NAME, "RUNNING")
    out = io.StringIO()
    assert Jobs("http://head").follow(NAME, out).status == "SUCCEEDED"
    assert (out.getvalue(), len(asked)) == (client.log, 2)


def test_a_job_is_stopped(client: Client) -> None:
    client.put(NAME, "RUNNING")
    assert Jobs("http://head").stop(NAME).status == "STOPPED"


def test_a_job_that_does_not_stop_is_a_failure(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.jobs.client._STOP_S", 0.0)
    client.put(NAME, "RUNNING")
    client.stops = False
    with pytest.raises(StageFailedError, match=f"{NAME} was asked to stop and is still running"):
        Jobs("http://head").stop(NAME)


def test_a_cluster_of_another_version_is_refused(client: Client) -> None:
    client._server_ray_version = "2.41.0"
    with pytest.raises(UserError, match=r"it runs Ray 2\.41\.0"):
        Jobs("http://head")


def _raising(error: Exception) -> Any:
    def make(address: str) -> None:
        raise error

    return make


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionError("Failed to connect"), "no Ray answers there"),
        (requests.exceptions.InvalidURL("bad"), "no Ray answers there"),
        (_http_error(401), "it asks for a token"),
        (_http_error(403), "it asks for a token"),
        (_http_error(502), "it answers made"),
        (RuntimeError("Request failed with status code 500: Traceback\n  it broke"), "it answers it broke"),
        (ray.exceptions.RpcError("failed to connect to all addresses"), "no Ray answers there"),
        (RayStateApiException("API server internal error"), "it answers API server internal error"),
        (ray.exceptions.AuthenticationError("no token"), "it asks for a token"),
    ],
)
def test_a_cluster_that_cannot_be_asked_is_said_so(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", _raising(error))
    with pytest.raises(UserError, match=said):
        Jobs("http://head:8265")
