"""The label stage on an S3 server: a second driver is refused, and takes over after a kill."""

import io
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.data.label_parts import LabelParts
from pipelines.label.output.commits import read_commits
from pipelines.storage.lease import FOLDER
from pipelines.storage.store import Store
from tests.support.commands import raystill, running
from tests.support.corpora import jsonl, run_config
from tests.support.endpoints import wait_until
from tests.support.label_kills import COMMAND
from tests.support.object_store import Bucket, move_claims
from tests.support.run_files import word_rows, write_run_file

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
ROWS = 600


def parts(s3: Bucket) -> set[str]:
    return {key.removeprefix("out/labels/") for key in s3.keys("out/labels/") if key.endswith(".parquet")}


def named(s3: Bucket) -> set[str]:
    return {name for commit in read_commits(Store(s3.uri("out/labels"))).commits for name in commit.parts}


def rows_of(s3: Bucket, names: Iterable[str]) -> dict[str, object]:
    """The labelled rows of parts, by id."""
    tables = [pq.read_table(io.BytesIO(s3.get(f"out/labels/{name}"))) for name in names if name.startswith("data/")]
    return {row["id"]: row for table in tables for row in table.to_pylist()}


def stopped_inside_a_commit(s3: Bucket, pid: int) -> bool:
    """Stop the process. True if parts without a record exist; otherwise the process continues."""
    os.kill(pid, signal.SIGSTOP)
    time.sleep(0.1)  # for an unanswered request
    if parts(s3) - named(s3):
        return True
    os.kill(pid, signal.SIGCONT)
    time.sleep(0.05)
    return False


@pytest.mark.full
def test_a_driver_that_slept_past_its_lease_adds_nothing(s3: Bucket, tmp_path: Path) -> None:
    corpus = s3.put("corpus/train.jsonl", jsonl(word_rows(ROWS)))
    teacher = {"engine": "echo", "latency_s": 2.0, "vllm": {"max_num_seqs": 8}}
    commits = {"commit_rows": 32, "commit_every_s": 0.2, "lease_s": 20.0}
    file = write_run_file(tmp_path, run_config(teacher, train=corpus, output=s3.uri("out"), labelling=commits))
    with running("label", str(file), log=tmp_path / "log", command=COMMAND) as process:
        wait_until(lambda: len(named(s3)) >= 1, seconds=200)
        refused = raystill("label", str(file))
        assert (refused.returncode, process.poll()) == (2, None)
        assert f"another driver is labelling into it: process {process.pid} on " in refused.stderr
        deadline = time.monotonic() + 200
        while not (len(named(s3)) >= 2 and stopped_inside_a_commit(s3, process.pid)):
            assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
            assert time.monotonic() < deadline
        assert parts(s3) - named(s3), "it must sleep between parts and record"
        finished = named(s3)
        before = rows_of(s3, finished)
        move_claims(s3, "out/labels")
        fast = ["--set", "teacher.latency_s=0.01"]
        result = raystill("label", str(file), *fast, "--json")
        assert result.returncode == 0, result.stderr[-3000:]
        left = [s3.get(key) for key in s3.keys(f"out/labels/{FOLDER}/")]
        assert left == [], result.stderr[-3000:]
        os.kill(process.pid, signal.SIGCONT)
        assert process.wait(timeout=120) == 1, (tmp_path / "log").read_text()[-3000:]
        log = (tmp_path / "log").read_text()
        assert "the lock could not be renewed" in log
        assert "Started a local Ray instance" not in log, "nothing uses Ray after its end"
    counts = json.loads(result.stdout)["stages"][0]["counts"]
    assert (counts["read"], counts["accepted"]) == (ROWS, ROWS)
    labels = LabelParts.of(Store(s3.uri("out/labels")))
    after = rows_of(s3, labels.names("data"))
    assert {row: after[row] for row in before} == before, "merging keeps finished rows"
    ids = Counter(
        i
        for name in labels.rows
        if not name.startswith("texts/")
        for i in labels.open(name).read(["id"])["id"].to_pylist()
    )
    assert (len(ids), set(ids.values())) == (ROWS, {1})
