"""The commands for jobs, on a stand-in for the cluster: which job is meant, what is refused, what Ctrl-C leaves."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from cluster.cli import main
from cluster.jobs.client import JobClient
from cluster.jobs.job import Job, job_name
from pipelines.config.load import parse_run
from tests.support.fake_job_server import FakeJobServer
from tests.support.run_files import TREE

ADDRESS = ["--address", "http://head:8265"]
PLACE = ["--stage", "label", *ADDRESS]


@pytest.fixture
def run_file(tmp_path: Path) -> str:
    file = tmp_path / "try.yaml"
    file.write_text(yaml.safe_dump(TREE))
    return str(file)


def put(server: FakeJobServer, output: str, **changes: Any) -> str:
    """A running label job of the run with another output. Returns its id."""
    run = parse_run({**TREE, "output": output, **changes})
    name = job_name(run, "label")
    server.put(name, "RUNNING", {"raystill": "label", "run": run.name, "output": output})
    return name


def command(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def refused(result: Result, message: str) -> None:
    assert (result.exit_code, message in result.output) == (2, True), result.output


def test_the_output_names_the_job_of_a_run_file(server: FakeJobServer, run_file: str) -> None:
    name = put(server, "s3://bucket/other")
    other = ["--set", "output=s3://bucket/other"]
    assert command("logs", run_file, *PLACE, *other).output == server.log
    stopped = command("stop", run_file, *PLACE, *other)
    assert (stopped.exit_code, stopped.output) == (0, f"{name}: stopped\n")


def test_jobs_of_other_outputs_are_listed_if_none_matches(server: FakeJobServer, run_file: str) -> None:
    submit = f"`raystill submit {run_file} --stage label --address http://head:8265`"
    refused(command("stop", run_file, *PLACE), submit)
    name = put(server, "s3://bucket/other")
    put(server, "s3://bucket/x", name="somebody-elses")
    result = command("logs", run_file, *PLACE)
    refused(result, "this cluster has no job of it with output s3://bucket/try")
    assert f"Jobs of run try: {name} (s3://bucket/other). Name one, or give the --set" in result.output
    assert "raystill submit" not in result.output, "it would start a second job"


def test_other_options_without_effect_are_refused(server: FakeJobServer, run_file: str) -> None:
    name = put(server, "s3://bucket/other")
    for verb in ("logs", "stop"):
        for options in (["--set", "output=x"], ["--stage", "label"]):
            refused(command(verb, name, *ADDRESS, *options), f"{' '.join(options)}: has no effect")
    refused(command("status", run_file, *ADDRESS, "--follow"), "--follow: ")
    refused(command("status", *ADDRESS, "--set", "output=x"), "--set output=x: ")


@pytest.mark.parametrize(
    ("options", "jobs"),
    [
        (["RUN"], ["try"]),  # not the runs whose names contain it
        (["RUN", "--set", "name=other"], ["other"]),
        ([], ["try", "try-large", "re-raystill-try", "other"]),
    ],
)
def test_status_lists_jobs_of_a_run_or_all(server: FakeJobServer, run_file: str, options: Any, jobs: list[str]) -> None:
    every = ("try", "try-large", "re-raystill-try", "other")
    names = {name: put(server, f"s3://bucket/{name}", name=name) for name in every}
    result = command("status", *(run_file if one == "RUN" else one for one in options), *ADDRESS, "--json")
    assert [job["job"] for job in json.loads(result.output)["jobs"]] == [names[name] for name in jobs]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--stage", "label", "--no-wait", "--retries", "3"], "--retries 3: has no effect with --no-wait"),
        (["--stage", "compare", "--replace"], "--replace: `raystill compare` does not take it"),
        (["--stage", "label", "--driver-cpus", "-1"], "--driver-cpus -1.0: must be a number of CPUs"),
        (["--stage", "label", "--driver-cpus", "nan"], "--driver-cpus nan: must be a number of CPUs"),
        (["--stage", "label", "--env", "NOWHERE_TO_BE_FOUND"], "this shell has no such variable"),
        (["--stage", "label", "--env", "=x"], "--env =x: it has no name"),
        (["--stage", "label", "--env", "OPENAI_API_KEY=sk-1"], "--env OPENAI_API_KEY: it is the teacher's key"),
        *(
            (["--stage", "label", "--driver-resource", text], f"--driver-resource {text}: must be NAME=NUMBER above 0")
            for text in ("head=0", "head=nan", "head=one", "head", "=1")
        ),
        (["--stage", "label", "--driver-resource", "GPU=1"], "--driver-resource GPU=1: GPU is no custom resource"),
    ],
)
def test_useless_options_are_refused(server: FakeJobServer, run_file: str, options: list[str], message: str) -> None:
    refused(command("submit", run_file, *ADDRESS, *options), message)
    assert not server.submitted


def test_a_failed_attempt_is_repeated(server: FakeJobServer, run_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    statuses = iter(["FAILED", "SUCCEEDED"])

    def follow(client: JobClient, job_id: str, out: Any) -> Job:
        server.jobs[job_id].status = next(statuses)
        return client.job(job_id)

    monkeypatch.setattr("cluster.jobs.follow.follow", follow)
    monkeypatch.setenv("HERE", "value")
    driver = ["--driver-resource", "head=1", "--env", "HERE", "--env", "A=b=c", "--env", "EMPTY="]
    result = command("submit", run_file, *PLACE, "--retries", "1", *driver)
    assert result.exit_code == 0, result.output
    name = job_name(parse_run(TREE), "label")
    assert [sent["submission_id"] for sent in server.submitted] == [name, f"{name}-2"]
    sent = server.submitted[-1]
    assert sent["entrypoint_resources"] == {"head": 1.0}
    assert sent["runtime_env"]["env_vars"] == {"HERE": "value", "A": "b=c", "EMPTY": ""}


@pytest.mark.parametrize(
    ("number", "arguments"), [("SIGTERM", ["submit", "RUN", *PLACE]), ("SIGINT", ["logs", "RUN", *PLACE, "-f"])]
)
def test_an_interrupted_command_leaves_the_job(
    server: FakeJobServer, run_file: str, monkeypatch: pytest.MonkeyPatch, number: str, arguments: list[str]
) -> None:
    monkeypatch.setattr("cluster.jobs.follow.follow", lambda *_: signal.raise_signal(signal.Signals[number]))
    name = put(server, TREE["output"])
    result = command(*(run_file if argument == "RUN" else argument for argument in arguments), "--json")
    error = json.loads(result.stdout)["error"]
    assert (result.exit_code, error["type"], error["exit_code"]) == (130, "interrupted", 130)
    assert f"job keeps running. Follow it: `raystill logs {name} --address http://head:8265 -f`." in error["message"]
    assert f"Stop it: `raystill stop {name} --address http://head:8265`" in result.stderr
