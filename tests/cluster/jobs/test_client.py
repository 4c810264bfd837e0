"""Jobs on a stand-in for the cluster: ids, attempts, attaching, errors."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.jobs.client import JobClient
from cluster.jobs.job import Driver, job_name
from pipelines.config.load import parse_run
from pipelines.errors import StageFailedError, UserError
from tests.support.fake_job_server import FakeJobServer
from tests.support.run_files import TREE

RUN = parse_run(TREE)
NAME = job_name(RUN, "label")


def test_a_job_has_an_id_code_and_environment(server: FakeJobServer) -> None:
    assert NAME.startswith("raystill-try-label-")
    other = parse_run({**TREE, "output": "s3://bucket/other"})
    assert len({NAME, job_name(RUN, "train"), job_name(other, "label")}) == 3
    assert job_name(parse_run({**TREE, "training": {"epochs": 9.0}}), "label") == NAME
    driver = Driver(cpus=2.0, resources={"head": 1.0}, environment={"A": "b"})
    job, new = JobClient("http://head").submit(RUN, "label", driver, arguments=["--replace"])
    assert (job.id, job.status, new) == (NAME, "PENDING", True)
    (sent,) = server.submitted
    assert sent["entrypoint"] == "python -m cluster label run.yaml --replace"
    assert (sent["entrypoint_num_cpus"], sent["entrypoint_resources"]) == (2.0, {"head": 1.0})
    assert sent["runtime_env"]["env_vars"] == {"A": "b", "RAYSTILL_DRIVER_CPUS": "2"}
    assert len(sent["runtime_env"]["py_modules"]) == 3
    JobClient("http://head").submit(RUN, "train", Driver(installed=True))
    assert "py_modules" not in server.submitted[-1]["runtime_env"]


def test_submitting_again_attaches_and_later_starts_an_attempt(server: FakeJobServer) -> None:
    client = JobClient("http://head")
    client.submit(RUN, "label", Driver())
    job, new = client.submit(RUN, "label", Driver())
    assert (job.id, new, len(server.submitted)) == (NAME, False, 1)
    server.jobs[NAME].status = "FAILED"
    job, new = client.submit(RUN, "label", Driver())
    assert (job.id, new) == (f"{NAME}-2", True)
    server.jobs[job.id].status = "SUCCEEDED"
    assert client.submit(RUN, "label", Driver())[0].id == f"{NAME}-3"
    assert [job.attempt for job in client.jobs(NAME)] == [1, 2, 3]


def test_of_two_concurrent_submissions_one_attaches(server: FakeJobServer, monkeypatch: pytest.MonkeyPatch) -> None:
    client = JobClient("http://head")
    client.submit(RUN, "label", Driver())
    monkeypatch.setattr(JobClient, "jobs", lambda self, name="": [])
    job, new = client.submit(RUN, "label", Driver())
    assert (job.id, new) == (NAME, False)


ENVIRONMENT = {"A": "b"}


@pytest.mark.parametrize(
    ("changes", "attaches"),
    [
        ({"arguments": ["--verbose"]}, True),
        ({"run": parse_run({**TREE, "training": {"seed": RUN.training.seed}})}, True),  # a default, written out
        ({"arguments": ["--replace"]}, False),
        ({"run": parse_run({**TREE, "corpus": {"train": "s3://bucket/other.jsonl"}})}, False),
        ({"driver": Driver(environment={"A": "c"})}, False),
        ({"driver": Driver(environment={"A": "b", "B": ""})}, False),
        ({"driver": Driver(environment=ENVIRONMENT, cpus=1.0)}, False),
        ({"driver": Driver(environment=ENVIRONMENT, installed=True)}, False),
    ],
)
def test_only_a_job_of_the_same_settings_is_attached(server: FakeJobServer, changes: Any, attaches: bool) -> None:
    client = JobClient("http://head")
    arguments: dict[str, Any] = {"run": RUN, "stage": "label", "driver": Driver(environment=ENVIRONMENT)}
    client.submit(**arguments)
    if attaches:
        assert client.submit(**(arguments | changes))[1] is False
        return
    follow_or_stop = f"{NAME}: it runs with other settings or code.*logs {NAME} --address http://head -f.*raystill stop"
    with pytest.raises(UserError, match=follow_or_stop):
        client.submit(**(arguments | changes))


@pytest.mark.parametrize("edited", ["task", "shots", "code"])
def test_edited_files_and_code_make_another_job(
    server: FakeJobServer, edited: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, shots = tmp_path / "task.py", tmp_path / "run.yaml"  # also if the file has the run file's name
    task.write_text("one = 1\n")
    shots.write_text("- one")
    run = parse_run({**TREE, "task": str(task), "teacher": {**TREE["teacher"], "shots": str(shots)}})
    client = JobClient("http://head")
    client.submit(run, "label", Driver())
    assert client.submit(run, "label", Driver())[1] is False
    if edited == "code":
        monkeypatch.setattr("cluster.jobs.submission.code_hash", lambda: "edited")
    else:
        {"task": task, "shots": shots}[edited].write_text("two = 2\n")
    with pytest.raises(UserError, match="other settings or code"):
        client.submit(run, "label", Driver())


def test_other_jobs_and_other_versions_of_ray(server: FakeJobServer) -> None:
    client = JobClient("http://head")
    server.put("raysubmit_1", "RUNNING")
    server.put(f"{NAME}-x", "RUNNING")
    assert client.jobs() == []
    with pytest.raises(UserError, match="the cluster has no such job"):
        client.job("nothing")
    server._server_ray_version = "2.41.0"
    with pytest.raises(UserError, match=r"it runs Ray 2\.41\.0"):
        JobClient("http://head")


@pytest.mark.parametrize(
    ("driver", "problem"),
    [
        (Driver(cpus=8.0, resources={"head": 1.0}), None),
        (Driver(cpus=9.0, resources={"head": 1.0}), "CPU 9 (the largest has 64), head 1 (the largest has 1)"),
        (Driver(resources={"haed": 1.0}), "haed 1 (the largest has 0)"),
        (Driver(), None),
    ],
)
def test_a_driver_that_fits_on_no_node_is_a_problem(
    server: FakeJobServer, monkeypatch: pytest.MonkeyPatch, driver: Driver, problem: str | None
) -> None:
    totals: list[dict[str, float]] = [{"CPU": 8.0, "head": 1.0}, {"CPU": 64.0, "GPU": 8.0}, {}]
    nodes = [SimpleNamespace(resources_total=total) for total in totals]
    monkeypatch.setattr("cluster.jobs.client.alive_nodes", lambda _: nodes)
    found = JobClient("http://head").placement_problem(driver)
    assert found is None if problem is None else problem in str(found)


def test_a_job_that_does_not_stop_is_a_failure(server: FakeJobServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.put(NAME, "RUNNING")
    server.put("raystill-b-label-00000000", "RUNNING")
    assert JobClient("http://head").stop(NAME).status == "STOPPED"
    monkeypatch.setattr("cluster.jobs.client._STOP_S", 0.0)
    server.stops = False
    with pytest.raises(StageFailedError, match="is still running 0 s after the request to stop"):
        JobClient("http://head").stop("raystill-b-label-00000000")
