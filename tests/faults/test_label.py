"""Labelling killed at any moment: after the last rerun, each row has exactly one outcome."""

from __future__ import annotations

import io
import json
import random
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from pipelines.label.output.commits import read_commits
from pipelines.recipes.word_problems import train_rows
from pipelines.storage.store import Store
from tests.support.corpora import write_jsonl
from tests.support.counting_task import answered, write_task
from tests.support.label_kills import COMMAND, REVERSED, Labelling, check, check_complete

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

ROWS = 800
VLLM_ROWS = 40
BAD = {"bad_input": 3, "duplicate": 2}
COMMIT_ROWS, BATCH = 32, 8
IN_FLIGHT = 8 * BATCH + 2 * 16 + COMMIT_ROWS + 64
"""Rows that a kill can cost: assigned to the replica, uncommitted, or in transit."""
ECHO = {"engine": "echo", "latency_s": 0.02, "vllm": {"max_num_seqs": BATCH}}


def prepare(
    folder: Path, teacher: dict[str, Any], rows: int, task: str = "arithmetic", command: list[str] = COMMAND
) -> Labelling:
    """A run over `rows` word problems and five rows that are rejected."""
    good = [{**row, "id": f"r{i}"} for i, row in enumerate(train_rows(rows, seed=1))]
    broken: list[dict[str, Any]] = [{"id": "b0", "input": None}, {"id": "b1", "input": 1, "label": "x"}, {"input": ""}]
    corpus = write_jsonl(folder / "train.jsonl", [*good[:7], *broken, *good[7:], good[3], good[rows // 2]])
    run = {
        "name": "faults",
        "output": str(folder / "out"),
        "task": task,
        "corpus": {"train": corpus},
        "teacher": teacher,
        "labelling": {"commit_rows": COMMIT_ROWS, "commit_every_s": 0.05},
        "student": {"model": "none"},
    }
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(run))
    return Labelling(file, folder / "out", command)


def rounds(folder: Path, faults: list[str], seed: int, kills: int = 2) -> list[dict[str, Any]]:
    """One round per fault on `echo`: kills at uniform moments of a run, then a rerun with checks."""
    draw = random.Random(seed)
    (folder / "whole").mkdir()
    whole = prepare(folder / "whole", ECHO, ROWS)
    duration = whole.finish()
    check(whole, ROWS, BAD)
    table = []
    for number, fault in enumerate(faults):
        here = folder / f"round-{number}"
        here.mkdir()
        task, log = write_task(here)
        labelling = prepare(here, ECHO, ROWS, str(task))
        for _ in range(kills):
            labelling.kill(fault, draw.uniform(0.0, duration))
        labelling.finish()
        check(labelling, ROWS, BAD)
        again = answered(log) - ROWS
        hits = sum(kill.hit for kill in labelling.kills)
        assert again <= hits * IN_FLIGHT, f"{again} rows were labelled again after {hits} kills"
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


def test_a_driver_killed_inside_a_commit_keeps_what_is_finished(tmp_path: Path) -> None:
    task, log = write_task(tmp_path)
    labelling = prepare(tmp_path, ECHO, ROWS, str(task))
    assert labelling.kill("driver", after_commits=4, inside=True).torn
    finished = named_parts(labelling)
    rows = sum(pq.read_metadata(io.BytesIO(part)).num_rows for part in finished.values())
    assert 0 < rows < ROWS
    labelling.finish()
    check(labelling, ROWS, BAD)
    assert {name: named_parts(labelling)[name] for name in finished} == finished, "a finished part changed"
    manifest = json.loads((labelling.output / "labels/manifest.json").read_text())
    assert manifest["details"]["resumed_at_rows"] == rows
    assert answered(log) - ROWS <= IN_FLIGHT


@pytest.mark.full
def test_a_record_before_its_parts_is_detected(tmp_path: Path) -> None:
    """These tests detect a commit with steps in the wrong order."""
    labelling = prepare(tmp_path, ECHO, ROWS, command=REVERSED)
    labelling.kill("driver", after_commits=4)
    with pytest.raises(AssertionError):
        finish_and_check(labelling)


def named_parts(labelling: Labelling) -> dict[str, bytes]:
    """Contents of the parts named by commits or the manifest."""
    labels = labelling.output / "labels"
    if (labels / "manifest.json").exists():
        names = json.loads((labels / "manifest.json").read_text())["details"]["parts"]
    else:
        names = [name for commit in read_commits(Store(str(labels))).commits for name in commit.parts]
    return {name: (labels / name).read_bytes() for name in names}


def finish_and_check(labelling: Labelling) -> None:
    labelling.finish()
    check(labelling, ROWS, BAD)


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
    rows = [{**row, "id": f"r{i}"} for i, row in enumerate(train_rows(VLLM_ROWS, seed=1))]
    run = {
        "name": "faults",
        "output": str(folder / "out"),
        "task": "arithmetic",
        "corpus": {"train": write_jsonl(folder / "train.jsonl", rows)},
        "teacher": {"engine": "vllm", "model": str(teacher_folder), "sampling": {"max_tokens": 24},
                    "vllm": {"max_model_len": 512, "max_num_seqs": 4}},
        "labelling": {"commit_rows": 8, "commit_every_s": 0.5},
        "student": {"model": "none"},
    }  # fmt: skip
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(run))
    return Labelling(file, folder / "out", [sys.executable, "-m", "cluster"])


@pytest.mark.full
@pytest.mark.vllm
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
        reasons = check_complete(labelling, {f"r{i}" for i in range(VLLM_ROWS)})
        assert set(reasons) <= {"unparsable", "truncated"}
        print(json.dumps({**vars(kill), "rejects": reasons}))
