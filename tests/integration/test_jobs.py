"""Jobs on a real cluster of two nodes without Raystill's code: submit, attach, stop, resume, fail.

The client is in another folder, and its shell has used another cluster that no longer exists.
"""

import json
import os
import subprocess
import sysconfig
import time
import venv
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from pipelines.storage.store import Store
from tests.support import commands
from tests.support.commands import COMMAND
from tests.support.endpoints import wait_until
from tests.support.label_kills import sigkill, title_of
from tests.support.object_store import Bucket
from tests.support.run_files import label_run, write_run_file

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
TOKEN = "a-token-of-this-test-and-no-other"
GONE = "127.0.0.1:9"
CHECKOUT = Path(__file__).parents[2]
# Only this process has the checkout on its path. Child processes use the environment without it.
UP = "import sys; sys.path.insert(0, sys.argv.pop(1)); from cluster.cli import main; main(prog_name='raystill')"
Raystill = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def raystill(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Raystill]:
    """The command in its own folder with the cluster's token. Neither has credentials of a store."""
    folder = tmp_path_factory.mktemp("client")
    cleared = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "AWS_"))}
    own = {
        "RAYSTILL_CACHE": str(folder / "cache"), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(CHECKOUT), "COLUMNS": "160", "RAY_ADDRESS": GONE, "RAY_API_SERVER_ADDRESS": f"http://{GONE}",
    }  # fmt: skip

    def run(*arguments: str, command: Sequence[str] = COMMAND, **environment: str) -> subprocess.CompletedProcess[str]:
        return commands.raystill(*arguments, command=command, env={**cleared, **own, **environment}, cwd=folder)

    try:
        yield run
    finally:
        run("down")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with all installed packages except this checkout."""
    folder = tmp_path_factory.mktemp("image")
    venv.EnvBuilder(symlinks=True).create(folder)
    # Python ignores .pth files in folders that a .pth file adds, so the link to the checkout is skipped.
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder)}))
    packages.joinpath("installed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = folder / "bin" / "python"
    command = [python, "-c", "import click, pipelines"]
    tried = subprocess.run(command, capture_output=True, text=True, cwd=folder, env={}, check=False)
    assert "No module named 'pipelines'" in tried.stderr, "Raystill must be installed with pip install --editable"
    return python


@pytest.fixture(scope="module")
def cluster(raystill: Raystill, image: Path) -> dict[str, Any]:
    """JSON of `raystill up`. Its nodes get Raystill's code only from jobs."""
    started = raystill("up", "--nodes", "2", "--json", command=[str(image), "-c", UP, str(CHECKOUT)], PYTHONPATH="")
    assert started.returncode == 0, started.stderr
    return dict(json.loads(started.stdout))


@pytest.fixture(scope="module")
def address(cluster: dict[str, Any]) -> str:
    return str(cluster["dashboard"])


def write_run(folder: Path, rows: int = 10, **teacher: Any) -> Path:
    """A run that labels problems with `echo` into FOLDER/out."""
    problems = [{"id": f"r{i}", "input": f"Tom has {i} pears and eats 1.", "label": f"{i} - 1"} for i in range(rows)]
    teacher = {"latency_s": 0.01, "replicas": {"min": 2, "max": 2}, **teacher}
    return write_run_file(folder, label_run(folder, problems, teacher, labelling={"commit_every_s": 1}))


def ids(output: Path | str) -> list[str]:
    store = Store(str(output))
    return sorted(pq.read_table(store.path("labels/data"), filesystem=store.fs).column("id").to_pylist())


def test_a_job_is_attached_to_stopped_resumed_and_listed(
    raystill: Raystill, address: str, tmp_path: Path, s3: Bucket
) -> None:
    """Writes to an object store whose credentials only the job has."""
    rows, output = 1500, s3.uri("out")
    # 32 rows/s, so that it outlasts four commands.
    run = write_run(tmp_path, rows, latency_s=4.0, vllm={"max_num_seqs": 64})
    place = ["--stage", "label", "--address", address]
    given = [word for name, value in s3.server.environment.items() for word in ("--env", f"{name}={value}")]
    submit = ["submit", str(run), *place, "--set", f"output={output}", *given]
    first = raystill(*submit, "--no-wait")
    assert first.returncode == 0, first.stderr
    job = first.stderr.split()[-1]
    second = raystill(*submit, "--no-wait")
    assert second.stderr.strip() == f"attached to {job}"
    other = raystill(*submit, "--no-wait", "--set", "corpus.limit=10")
    assert (other.returncode, "runs with other settings" in other.stderr) == (2, True)
    elsewhere = raystill("logs", str(run), *place)
    assert (elsewhere.returncode, output in elsewhere.stderr) == (2, True), elsewhere.stderr
    wait_until(lambda: s3.keys("out/labels/data/"))
    stopped = raystill("stop", job, "--address", address)
    assert stopped.stdout.strip() == f"{job}: stopped"
    kept = ids(output)
    assert 0 < len(kept) < rows

    done = raystill(*submit, "--set", "teacher.latency_s=0.01", "--json")
    assert done.returncode == 0, done.stderr[-8000:]
    result = json.loads(done.stdout)
    assert (result["status"], result["exit_code"], result["job"]) == ("succeeded", 0, f"{job}-2")
    assert f"{rows:,} read = {rows:,} accepted + 0 rejected" in done.stderr
    assert "2 nodes checked" in done.stderr
    assert "problems" in done.stderr, "the node table is missing"
    assert len(ids(output)) == len(set(ids(output))) == rows
    resumed_at = json.loads(s3.get("out/labels/manifest.json"))["details"]["resumed_at_rows"]
    assert 0 < resumed_at <= len(kept), "finished rows must be kept"

    listed = json.loads(raystill("status", str(run), "--address", address, "--json").stdout)["jobs"]
    found = {one["job"]: one["status"] for one in listed}
    assert (found[job], found[f"{job}-2"]) == ("stopped", "succeeded")


@pytest.mark.full
def test_a_killed_driver_is_followed_by_an_attempt_that_resumes(
    raystill: Raystill, cluster: dict[str, Any], tmp_path: Path
) -> None:
    rows = 3000
    run = write_run(tmp_path, rows, latency_s=2.0)
    without_scheme = cluster["dashboard"].removeprefix("http://")
    command = ["submit", str(run), "--stage", "label", "--address", without_scheme]
    with ThreadPoolExecutor(1) as pool:
        submitted = pool.submit(raystill, *command, "--retries", "1")
        wait_until(lambda: submitted.done() or bool(list((tmp_path / "out" / "labels").glob("data/*.parquet"))))
        assert not submitted.done(), submitted.result().stderr
        sigkill([process for process in processes(cluster) if "-m cluster label run.yaml" in title_of(process)])
        killed = time.time()
        done = submitted.result()
    assert done.returncode == 0, done.stderr + done.stdout[-8000:]
    assert "; attempt 2 of 2" in done.stderr
    assert len(ids(tmp_path / "out")) == len(set(ids(tmp_path / "out"))) == rows
    parts = [part.stat().st_mtime for part in (tmp_path / "out" / "labels" / "data").glob("*.parquet")]
    assert min(parts) < killed < max(parts), "finished rows must be kept, and the rest added"


def processes(cluster: dict[str, Any]) -> list[psutil.Process]:
    return [child for pid, _ in cluster["nodes"] for child in psutil.Process(pid).children(recursive=True)]


def test_a_failed_job_gives_its_exit_code_and_log(raystill: Raystill, address: str, tmp_path: Path) -> None:
    run = write_run(tmp_path)
    missing = ["--set", f"corpus.train={tmp_path / 'gone.jsonl'}"]
    done = raystill("submit", str(run), "--stage", "label", "--address", address, *missing, "--retries", "3")
    assert done.returncode == 2
    assert "gone.jsonl" in done.stdout
    assert "failed (exit code 2)" in done.stderr
    assert "attempt 2" not in done.stderr, "a user error was retried"
    logs = raystill("logs", str(run), "--stage", "label", "--address", address, "-f")
    assert logs.returncode == 2
    again = raystill("up", "--nodes", "1")
    assert (again.returncode, "a cluster runs at" in again.stderr) == (2, True)
