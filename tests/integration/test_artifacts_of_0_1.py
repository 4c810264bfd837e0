"""Artifacts of 0.1: finished ones are reused, begun labels are resumed, a begun training restarts.

artifacts_0_1/ holds parts of one run; its README.md says how they were made. A test copies those that it needs into its own folder.
"""

import json
import shutil
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest
import yaml

from serving.model_card import read_card
from tests.support.commands import environment, raystill, running, succeed, url_of
from tests.support.endpoints import free_port
from tests.support.local_ray import shared_environment
from tests.support.version_0_1 import known_to_0_1

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

FIXTURES = Path(__file__).with_name("artifacts_0_1")
FINISHED = ("labels_finished", "student_finished", "comparison_finished")
PRICED = ("--set", "compare.price_per_worker_hour=1.5")
"""Not part of any fingerprint. Reports are rewritten for it, from the figures of 0.1."""
REUSED = dict.fromkeys(("label", "train", "evaluate"), True)


def run_with(folder: Path, *parts: str) -> Path:
    """A run of 0.1 with these parts, in the folder."""
    for part in ("inputs", *parts):
        shutil.copytree(FIXTURES / part, folder, dirs_exist_ok=True)
    return folder


def command_on(folder: Path, command: str, *options: str) -> dict[str, Any]:
    """The JSON that a command on the run file prints. Stages use the Ray of this process."""
    env = environment() if command in ("status", "plan") else shared_environment()
    return succeed(command, "run.yaml", *options, env=env, cwd=folder)


def stages_of(summary: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {stage["stage"]: stage for stage in summary["stages"]}


def read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def files_of(folder: Path) -> dict[str, bytes]:
    """Name -> content of all files below a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def rows_of(labels: Path, parts: Iterable[Path]) -> dict[tuple[str, str], dict[str, Any]]:
    """(folder, id) -> row of these parts, each in one part only. Texts of answers have no id."""
    rows = [(str(part.parent.relative_to(labels)), row) for part in parts for row in pq.read_table(part).to_pylist()]
    found = {(folder, row["id"]): row for folder, row in rows if "id" in row}
    assert len(found) == sum("id" in row for _, row in rows)
    return found


def test_status_and_plan_know_a_finished_run_of_0_1(tmp_path: Path) -> None:
    run = run_with(tmp_path, *FINISHED)
    before = files_of(run / "out")
    stages = command_on(run, "status")["stages"]
    folders = {"label": "labels", "train": "student", "evaluate": "report", "compare": "compare"}
    assert {name: stage["state"] for name, stage in stages.items()} == dict.fromkeys(folders, "finished")
    for stage, artifact in folders.items():
        assert stages[stage]["fingerprint"] == read(run / f"out/{artifact}/manifest.json")["fingerprint"]
    exists = command_on(run, "plan")["exists"]
    assert {name: found["reused"] for name, found in exists.items()} == REUSED
    assert files_of(run / "out") == before


def test_status_and_plan_know_begun_work_of_0_1(tmp_path: Path) -> None:
    labels = run_with(tmp_path / "labels", "labels_begun")
    assert command_on(labels, "status")["stages"]["label"] == {"state": "interrupted", "rows": 85, "total": 151}
    assert command_on(labels, "plan")["exists"]["label"]["rows_finished"] == 85
    training = run_with(tmp_path / "training", "labels_finished", "training_begun")
    assert command_on(training, "status")["stages"]["train"] == {"state": "begun"}


def test_a_task_file_of_0_1_still_reads_its_labels(tmp_path: Path) -> None:
    run = run_with(tmp_path, "own_task_finished")
    exists = command_on(run, "plan", "--set", "task=operation.py")["exists"]
    assert exists["label"]["reused"], exists


def test_finished_artifacts_of_0_1_are_reused(tmp_path: Path) -> None:
    run = run_with(tmp_path, *FINISHED)
    unreachable = environment() | {"RAY_ADDRESS": "127.0.0.1:1"}  # what is reused needs no Ray
    summary = stages_of(succeed("run", "run.yaml", *PRICED, env=unreachable, cwd=run))
    assert {name: stage["reused"] for name, stage in summary.items()} == REUSED
    now = files_of(run / "out")
    for part, artifact in (("labels_finished", "labels"), ("student_finished", "student")):
        old = files_of(FIXTURES / part / f"out/{artifact}")
        assert {name: now[f"{artifact}/{name}"] for name in old} == old
    for name in ("manifest.json", "predictions.parquet"):
        assert now[f"report/{name}"] == files_of(FIXTURES / "student_finished/out/report")[name]
    # The new code writes the pages from the figures of 0.1.
    report, measured = read(run / "out/report/report.json"), read(FIXTURES / "student_finished/out/report/report.json")
    assert report["cost"]["training"]["money"] > 0
    assert known_to_0_1({**report, "cost": measured["cost"]}, measured) == measured
    assert "10 of 24" in (run / "out/report/report.html").read_text(encoding="utf-8")


def move_corpus(run: Path) -> None:
    """Point begun labels to the corpus in the run's folder: their scan record names its files by absolute path."""
    for file in (run / "out/labels/commits").glob("*.json"):
        record = read(file)
        for split in (record["scan"] or {"splits": []})["splits"]:
            split["uri"] = str(run / Path(split["uri"]).name)
        file.write_text(json.dumps(record), encoding="utf-8")


def test_begun_labels_of_0_1_are_resumed(tmp_path: Path) -> None:
    run = run_with(tmp_path, "labels_begun")
    move_corpus(run)
    labels, whole = run / "out/labels", FIXTURES / "labels_finished/out/labels"
    committed = {name: rows for file in labels.glob("commits/*.json") for name, rows in read(file)["parts"].items()}
    before = rows_of(labels, [labels / name for name in committed])
    summary = stages_of(command_on(run, "label"))["label"]
    # 0.1 was killed inside a commit: parts that no record names do not count.
    assert summary["resumed_at_rows"] == sum(committed.values()) == 85
    assert summary["throughput"]["rows"] == 151 - 85
    # Committed rows stay as they were, in parts that are merged at the end.
    after = rows_of(labels, labels.rglob("*.parquet"))
    assert known_to_0_1({key: after[key] for key in before}, before) == before
    # The labels equal those of an undisturbed run of 0.1.
    assert {key for key in after if key[0] != "texts"} == rows_of(whole, whole.rglob("*.parquet")).keys()
    made, wanted = read(labels / "manifest.json"), read(whole / "manifest.json")
    assert (made["fingerprint"], made["counts"]) == (wanted["fingerprint"], wanted["counts"])
    for content in ("content", "heldout_content"):
        assert made["details"][content] == wanted["details"][content]
    assert not list(labels.glob("commits/*"))


@pytest.mark.full
def test_begun_training_of_0_1_restarts(tmp_path: Path) -> None:
    """Its steps follow batch plan 1, in which the weight of an example depends on its length."""
    run = run_with(tmp_path, "labels_finished", "training_begun")
    done = raystill("train", "run.yaml", "--json", env=shared_environment(), cwd=run)
    assert done.returncode == 0, done.stderr[-3000:]
    summary = stages_of(json.loads(done.stdout))["train"]
    assert summary["training"]["started_at_steps"] == [0]
    assert "a training that 0.1 began; its steps follow another rule" in done.stderr
    whole = FIXTURES / "student_finished/out/student"
    assert summary["fingerprint"] != read(whole / "manifest.json")["fingerprint"]
    last, wanted = (
        json.loads((student / "training.jsonl").read_text().splitlines()[-1])["loss"]
        for student in (run / "out/student", whole)
    )
    assert last == pytest.approx(wanted, rel=0.5)
    labels = files_of(FIXTURES / "labels_finished/out/labels")
    assert {name: (run / "out/labels" / name).read_bytes() for name in labels} == labels
    assert not list(run.glob("out/training/*"))


def test_a_student_of_0_1_gives_its_recorded_answers(tmp_path: Path) -> None:
    run = run_with(tmp_path, "student_finished")
    options = ("--run", "run.yaml", "--set", f"serving.port={free_port()}", "--json")
    log = run / "log"
    with running("serve", "sums=out/student", *options, log=log, cwd=run, env=shared_environment()) as process:
        with httpx.Client(base_url=url_of(process, log), timeout=120.0) as client:
            for recorded in read(FIXTURES / "served/exchanges.json"):
                check_exchange(client, recorded)
        process.send_signal(signal.SIGINT)
        assert process.wait(120.0) == 0


def check_exchange(client: httpx.Client, recorded: dict[str, Any]) -> None:
    """Send a request that 0.1 answered. The answer is the same, except for id and time of a completion."""
    response = client.request(recorded["method"], recorded["path"], json=recorded["body"])
    wanted = {key: value for key, value in recorded["answer"].items() if key not in ("id", "created")}
    if "error" in wanted:
        del wanted["error"]["message"]  # its words may change
    assert response.status_code == recorded["status"], response.text
    assert known_to_0_1(response.json(), wanted) == wanted


def test_serve_configs_equal_those_of_0_1(tmp_path: Path) -> None:
    run = run_with(tmp_path, "student_finished")
    wanted = yaml.safe_load((FIXTURES / "served/serve.yaml").read_text(encoding="utf-8"))
    ingress, student = wanted["applications"]
    ingress["deployments"][0]["user_config"]["students"] = {"sums": str(run / "out/student")}
    student["args"]["folder"] = str(run / "out/student")
    for application in wanted["applications"]:
        del application["import_path"]  # names code
    # A student is named by its content; the name that 0.1 gave still deploys it.
    content = read_card("sums", str(run / "out/student"), fingerprint=student["args"]["fingerprint"]).content
    ingress["deployments"][0]["user_config"]["fingerprints"] = {"sums": content}
    student["args"]["fingerprint"] = content
    for application in wanted["applications"]:
        application["args"]["serving"].pop("max_batch_size", None)  # each engine has its own default now
    changes = ("--set", "serving.host=0.0.0.0", "--set", "serving.keys=none")
    printed = succeed("serve", "sums=out/student", "--run", "run.yaml", *changes, "--print-config", cwd=run)
    assert known_to_0_1(printed, wanted) == wanted
