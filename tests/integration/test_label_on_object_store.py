"""The label stage on an S3 server: a second driver is refused, and takes over after a kill."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml

from pipelines.data.label_parts import LabelParts
from pipelines.label.output.commits import read_commits
from pipelines.recipes.word_problems import train_rows
from pipelines.storage.lease import CLAIM_BYTES, FOLDER
from pipelines.storage.store import Store
from tests.support.commands import raystill, running
from tests.support.endpoints import wait_until
from tests.support.label_kills import COMMAND
from tests.support.object_store import Bucket

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]
ROWS = 600


def read(s3: Bucket, key: str) -> bytes:
    return bytes(s3.server.client().get_object(Bucket=s3.name, Key=key)["Body"].read())


def parts(s3: Bucket) -> set[str]:
    return {key.removeprefix("out/labels/") for key in s3.keys("out/labels/") if key.endswith(".parquet")}


def named(s3: Bucket) -> set[str]:
    return {name for commit in read_commits(Store(s3.uri("out/labels"))).commits for name in commit.parts}


def stopped_inside_a_commit(s3: Bucket, pid: int) -> bool:
    """Stop the process. True if parts without a record exist; otherwise the process continues."""
    os.kill(pid, signal.SIGSTOP)
    time.sleep(0.1)  # for an unanswered request
    if parts(s3) - named(s3):
        return True
    os.kill(pid, signal.SIGCONT)
    time.sleep(0.05)
    return False


def on_another_machine(s3: Bucket) -> None:
    """Rewrite the claim as from another machine, whose processes are not visible here."""
    [key] = s3.keys(f"out/labels/{FOLDER}/")
    claim = json.loads(read(s3, key))
    claim["holder"] |= {"host": "node-7", "processes": "of another machine"}
    s3.put(key, json.dumps(claim).encode().ljust(CLAIM_BYTES))


def test_a_driver_that_slept_past_its_lease_adds_nothing(s3: Bucket, tmp_path: Path) -> None:
    rows = [{**row, "id": f"r{i}"} for i, row in enumerate(train_rows(ROWS, seed=1))]
    corpus = s3.put("corpus/train.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    run = {
        "name": "s3",
        "output": s3.uri("out"),
        "task": "arithmetic",
        "corpus": {"train": corpus},
        "teacher": {"engine": "echo", "latency_s": 2.0, "vllm": {"max_num_seqs": 8}},
        "labelling": {"commit_rows": 32, "commit_every_s": 0.2, "lease_s": 20.0},
        "student": {"model": "none"},
    }
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(run))
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
        before = {name: read(s3, f"out/labels/{name}") for name in finished}
        on_another_machine(s3)
        fast = ["--set", "teacher.latency_s=0.01"]
        result = raystill("label", str(file), *fast, "--json")
        assert result.returncode == 0, result.stderr[-3000:]
        left = [read(s3, key) for key in s3.keys(f"out/labels/{FOLDER}/")]
        assert left == [], result.stderr[-3000:]
        os.kill(process.pid, signal.SIGCONT)
        assert process.wait(timeout=120) == 1, (tmp_path / "log").read_text()[-3000:]
        log = (tmp_path / "log").read_text()
        assert "the lock could not be renewed" in log
        assert "Started a local Ray instance" not in log, "nothing uses Ray after its end"
    counts = json.loads(result.stdout)["stages"][0]["counts"]
    assert (counts["read"], counts["accepted"]) == (ROWS, ROWS)
    assert {name: read(s3, f"out/labels/{name}") for name in finished} == before
    labels = LabelParts.of(Store(s3.uri("out/labels")))
    ids = Counter(i for name in labels.rows for i in labels.open(name).read(["id"])["id"].to_pylist())
    assert (len(ids), set(ids.values())) == (ROWS, {1})
