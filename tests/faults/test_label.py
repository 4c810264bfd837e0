"""Labelling killed at any moment: after the last rerun, each row has exactly one outcome."""

import json
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipelines.label.output.commits import read_commits
from pipelines.storage.store import Store
from tests.support.counting_task import answered, write_task
from tests.support.label_kills import COMMAND, REVERSED, Labelling, check
from tests.support.run_files import label_run, word_rows, write_run_file

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

ROWS = 800
VLLM_ROWS = 40
BAD = {"bad_input": 3, "duplicate": 2}
COMMIT_ROWS, BATCH = 32, 8
IN_FLIGHT = 8 * BATCH + 2 * 16 + 2 * COMMIT_ROWS + 160
"""Rows that a kill can cost: assigned to the replica, in one of two commits, or in transit for 0.2 s."""
ECHO = {"latency_s": 0.02, "vllm": {"max_num_seqs": BATCH}}


def prepare(
    folder: Path,
    teacher: dict[str, Any],
    rows: int,
    task: str = "arithmetic",
    command: list[str] = COMMAND,
    shards: int = 1,
) -> Labelling:
    """A run over `rows` word problems and five rows that are rejected."""
    good = word_rows(rows)
    broken: list[dict[str, Any]] = [{"id": "b0", "input": None}, {"id": "b1", "input": 1, "label": "x"}, {"input": ""}]
    corpus = [*good[:7], *broken, *good[7:], good[3], good[rows // 2]]
    settings = {"commit_rows": COMMIT_ROWS, "commit_every_s": 0.05, "shards": shards}
    teacher = {**teacher, "replicas": {"min": shards, "max": shards}}
    file = write_run_file(folder, label_run(folder, corpus, teacher, task=task, labelling=settings))
    return Labelling(file, folder / "out", command)


def rounds(folder: Path, faults: list[str], seed: int, kills: int = 2, shards: int = 1) -> list[dict[str, Any]]:
    """One round per fault on `echo`: kills at uniform moments of a run, then a rerun with checks."""
    draw = random.Random(seed)
    (folder / "whole").mkdir()
    whole = prepare(folder / "whole", ECHO, ROWS, shards=shards)
    duration = whole.finish()
    check(whole, ROWS, BAD)
    table = []
    for number, fault in enumerate(faults):
        here = folder / f"round-{number}"
        here.mkdir()
        task, log = write_task(here)
        labelling = prepare(here, ECHO, ROWS, str(task), shards=shards)
        for _ in range(kills):
            labelling.kill(fault, draw.uniform(0.0, duration))
        labelling.finish()
        check(labelling, ROWS, BAD)
        again = answered(log) - ROWS
        hits = sum(kill.hit for kill in labelling.kills)
        assert again <= hits * shards * IN_FLIGHT, f"{again} rows were labelled again after {hits} kills"
        table.append({"fault": fault, "kills": [vars(kill) for kill in labelling.kills], "labelled_again": again})
        print(json.dumps(table[-1]))
    return table


def test_a_dead_actor_loses_and_doubles_no_row(tmp_path: Path) -> None:
    """Kills at a commit. test_twenty_rounds_of_kills_lose_and_double_no_row kills at any moment."""
    task, log = write_task(tmp_path)
    labelling = prepare(tmp_path, ECHO, ROWS, str(task))
    kill = labelling.kill("actor", after_commits=random.Random(1).randint(1, ROWS // COMMIT_ROWS // 2))
    assert (kill.hit, kill.survived) == (True, True), labelling.log()
    check(labelling, ROWS, BAD)
    assert answered(log) - ROWS <= IN_FLIGHT


@pytest.mark.full
def test_a_driver_killed_inside_a_commit_keeps_what_is_finished(tmp_path: Path) -> None:
    task, log = write_task(tmp_path)
    labelling = prepare(tmp_path, ECHO, ROWS, str(task))
    assert labelling.kill("driver", after_commits=4, inside=True).torn
    rows = sum(commit.counts.done for commit in read_commits(Store(str(labelling.output / "labels"))).commits)
    assert 0 < rows < ROWS
    labelling.finish()
    check(labelling, ROWS, BAD)
    manifest = json.loads((labelling.output / "labels/manifest.json").read_text())
    assert manifest["details"]["resumed_at_rows"] == rows
    assert answered(log) - ROWS <= IN_FLIGHT


@pytest.mark.full
def test_a_dead_shard_ends_the_run_and_loses_no_row(tmp_path: Path) -> None:
    """The driver's death, and kills at any moment: test_kills_at_any_moment_with_four_shards."""
    labelling = prepare(tmp_path, ECHO, ROWS, shards=2)
    kill = labelling.kill("shard", after_commits=2)
    assert (kill.hit, kill.survived) == (True, False), labelling.log()
    assert "Run the same command to resume" in labelling.log()
    labelling.finish()
    check(labelling, ROWS, BAD)


@pytest.mark.full
def test_a_record_before_its_parts_is_detected(tmp_path: Path) -> None:
    """These tests detect a commit with steps in the wrong order."""
    labelling = prepare(tmp_path, ECHO, ROWS, command=REVERSED)
    labelling.kill("driver", after_commits=4)
    with pytest.raises(AssertionError):  # noqa: PT012
        labelling.finish()
        check(labelling, ROWS, BAD)


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_kills_at_any_moment_with_four_shards(tmp_path: Path) -> None:
    kinds = ["shard", "driver", "actor", "reader", "node"]
    table = rounds(tmp_path, [kinds[i % len(kinds)] for i in range(10)], seed=5, shards=4)
    assert {kill["fault"] for row in table for kill in row["kills"] if kill["hit"]} == set(kinds)


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_twenty_rounds_of_kills_lose_and_double_no_row(tmp_path: Path) -> None:
    kinds = ["driver", "actor", "reader", "raylet", "gcs", "node"]
    table = rounds(tmp_path, [kinds[i % len(kinds)] for i in range(20)], seed=2)
    hits = {kill["fault"] for row in table for kill in row["kills"] if kill["hit"]}
    assert hits == set(kinds)
    assert any(kill["torn"] for row in table for kill in row["kills"]), "no kill fell inside a commit"


def on_vllm(folder: Path, teacher_folder: Path) -> Labelling:
    """Word problems for the embedded teacher, 4 at a time, so that a kill falls into the middle."""
    teacher = {"engine": "vllm", "model": str(teacher_folder), "sampling": {"max_tokens": 24},
               "vllm": {"max_model_len": 512, "max_num_seqs": 4}}  # fmt: skip
    run = label_run(folder, word_rows(VLLM_ROWS), teacher, labelling={"commit_rows": 8, "commit_every_s": 0.5})
    return Labelling(write_run_file(folder, run), folder / "out", [sys.executable, "-m", "cluster"])


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_each_fault_on_the_real_engine(tmp_path: Path, teacher_folder: Path) -> None:
    for fault in ("driver", "actor", "engine", "raylet", "gcs", "node"):
        here = tmp_path / fault
        here.mkdir()
        labelling = on_vllm(here, teacher_folder)
        kill = labelling.kill(fault, after_commits=2)
        assert kill.hit, labelling.log()
        assert kill.survived or fault != "engine", "a run must survive the kill of its engine"
        labelling.finish()
        counts = json.loads((labelling.output / "labels/manifest.json").read_text())["counts"]
        assert labelling.ids() == Counter(f"r{i}" for i in range(VLLM_ROWS))
        assert counts["read"] == counts["accepted"] + counts["rejected"] == VLLM_ROWS
        assert set(counts["rejected_by_reason"]) <= {"unparsable", "truncated"}
        print(json.dumps({**vars(kill), "rejects": counts["rejected_by_reason"]}))
