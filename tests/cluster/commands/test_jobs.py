"""The commands for clusters before a stand-in of Ray's client: which job is meant, what is refused, what Ctrl-C leaves behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from cluster.cli import main
from cluster.commands.jobs import _amounts, _environment
from cluster.jobs.client import Job, Jobs, job_name
from pipelines.config.load import parse_run
from pipelines.errors import UserError
from tests.cluster.jobs.test_client import RUN, Client, _mode_is_set, client
from tests.cluster.jobs.test_package import TREE

__all__ = ["_mode_is_set", "client"]
PLACE = ["--stage", "label", "--address", "http://head:8265"]


@pytest.fixture
def run_file(tmp_path: Path) -> str:
    file = tmp_path / "try.yaml"
    file.write_text(yaml.safe_dump(TREE))
    return str(file)


def put(client: Client, output: str, status: str = "RUNNING", **changes: Any) -> str:
    run = parse_run({**TREE, "output": output, **changes})
    name = job_name(run, "label")
    client.put(name, status, {"raystill": "label", "run": run.name, "output": output})
    return name


def command(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_a_job_of_another_output_is_named_with_the_settings_of_its_submission(client: Client, run_file: str) -> None:
    name = put(client, "s3://bucket/other")
    other = ["--set", "output=s3://bucket/other"]
    assert command("logs", run_file, *PLACE, *other).output == client.log
    stopped = command("stop", run_file, *PLACE, *other)
    assert (stopped.exit_code, stopped.output) == (0, f"{name}: stopped\n")


def test_the_jobs_of_a_run_that_are_there_are_listed_where_the_output_is_another(client: Client, run_file: str) -> None:
    name = put(client, "s3://bucket/other")
    put(client, "s3://bucket/x", name="somebody-elses")
    told = command("logs", run_file, *PLACE)
    assert told.exit_code == 2
    assert "with output s3://bucket/try it was not submitted to this cluster" in told.output
    assert f"Jobs of run try there: {name} (s3://bucket/other). Name one of them, or give the same --set" in told.output
    assert "raystill submit" not in told.output, "which would start a second job"


def test_a_run_of_which_no_job_is_there_is_to_be_submitted(client: Client, run_file: str) -> None:
    told = command("stop", run_file, *PLACE)
    assert told.exit_code == 2
    assert f"raystill submit {run_file} --stage label --address http://head:8265" in told.output


@pytest.mark.parametrize("verb", ["logs", "stop"])
@pytest.mark.parametrize("options", [["--set", "output=x"], ["--stage", "label"]], ids=lambda options: options[0])
def test_settings_and_stage_have_no_effect_on_an_id(client: Client, verb: str, options: list[str]) -> None:
    told = command(verb, put(client, "s3://bucket/other"), "--address", "http://head:8265", *options)
    assert (told.exit_code, f"{' '.join(options)}: it has no effect" in told.output) == (2, True)


def test_options_of_status_that_would_have_no_effect_are_refused(client: Client, run_file: str) -> None:
    told = command("status", run_file, "--address", "http://head:8265", "--follow")
    assert (told.exit_code, "--follow: it has no effect with --address" in told.output) == (2, True)
    told = command("status", "--address", "http://head:8265", "--set", "output=x")
    assert (told.exit_code, "--set output=x: it has no effect without a run file" in told.output) == (2, True)


def test_status_goes_by_the_name_that_is_set(client: Client, run_file: str) -> None:
    name = put(client, "s3://bucket/a", name="other")
    put(client, "s3://bucket/b")
    told = command("status", run_file, "--address", "http://head:8265", "--set", "name=other", "--json")
    assert [job["job"] for job in json.loads(told.output)["jobs"]] == [name]


def test_status_lists_the_jobs_of_a_run_and_of_no_run_that_is_called_nearly_so(client: Client, run_file: str) -> None:
    name = put(client, "s3://bucket/a")
    put(client, "s3://bucket/b", name="try-large")
    put(client, "s3://bucket/c", name="re-raystill-try")
    told = command("status", run_file, "--address", "http://head:8265", "--json")
    assert [job["job"] for job in json.loads(told.output)["jobs"]] == [name]
    everything = command("status", "--address", "http://head:8265", "--json")
    assert len(json.loads(everything.output)["jobs"]) == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--stage", "label", "--no-wait", "--retries", "3"], "--retries 3: it has no effect with --no-wait"),
        (["--stage", "compare", "--replace"], "--replace: `raystill compare` does not take it"),
        (["--stage", "label", "--driver-cpus", "-1"], "--driver-cpus -1.0: it is no number of CPUs"),
        (["--stage", "label", "--driver-cpus", "nan"], "--driver-cpus nan: it is no number of CPUs"),
        (
            ["--stage", "label", "--driver-resource", "head=0"],
            "--driver-resource head=0: it is not NAME=NUMBER above 0",
        ),
        (
            ["--stage", "label", "--driver-resource", "head=nan"],
            "--driver-resource head=nan: it is not NAME=NUMBER above 0",
        ),
        (["--stage", "label", "--driver-resource", "=1"], "--driver-resource =1: it is not NAME=NUMBER above 0"),
        (["--stage", "label", "--driver-resource", "GPU=1"], "--driver-resource GPU=1: GPU is no custom resource"),
    ],
)
def test_options_that_would_have_no_effect_are_refused(
    client: Client, run_file: str, options: list[str], said: str
) -> None:
    told = command("submit", run_file, "--address", "http://head:8265", *options)
    assert (told.exit_code, said in told.output) == (2, True)
    assert not client.submitted


def test_an_attempt_that_fails_is_followed_by_another(
    client: Client, run_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    statuses = iter(["FAILED", "SUCCEEDED"])

    def follow(self: Jobs, job_id: str, out: Any) -> Job:
        client.jobs[job_id].status = next(statuses)
        return self.job(job_id)

    monkeypatch.setattr(Jobs, "follow", follow)
    told = command("submit", run_file, *PLACE, "--retries", "1")
    assert told.exit_code == 0, told.output
    name = job_name(RUN, "label")
    assert [given["submission_id"] for given in client.submitted] == [name, f"{name}-2"]


@pytest.mark.parametrize("arguments", [["submit", "RUN", *PLACE], ["logs", "RUN", *PLACE, "-f"]])
def test_interrupted_it_says_that_the_job_runs_on(
    client: Client, run_file: str, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Jobs, "follow", interrupted)
    name = put(client, TREE["output"])
    told = command(*(run_file if argument == "RUN" else argument for argument in arguments))
    assert told.exit_code == 130
    assert "The job runs on" in told.output
    assert f"`raystill stop {name} --address http://head:8265` ends it" in told.output


def test_resources_and_variables_of_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _amounts(["head=1", "x=0.5"]) == {"head": 1.0, "x": 0.5}
    monkeypatch.setenv("HERE", "value")
    assert _environment(["HERE", "A=b=c", "EMPTY="]) == {"HERE": "value", "A": "b=c", "EMPTY": ""}
    with pytest.raises(UserError, match="NAME=NUMBER"):
        _amounts(["head=one"])
    with pytest.raises(UserError, match="no such variable"):
        _environment(["NOWHERE_TO_BE_FOUND"])
