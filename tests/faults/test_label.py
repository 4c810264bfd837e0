"""Labelling, killed at any moment: after the last rerun every row read has exactly one outcome."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.recipes.word_problems import train_rows
from tests.faults.counted import answered, write_task
from tests.faults.harness import COMMAND, REVERSED, Labelling, check, check_complete
from tests.faults.nodes import ray_nodes
from tests.pipelines.test_corpus import write_jsonl

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

ROWS = 800
BAD = {"bad_input": 3, "duplicate": 2}
COMMIT_ROWS, BATCH = 32, 8
IN_FLIGHT = 8 * BATCH + 2 * 16 + COMMIT_ROWS + 64
"""Rows that a kill can cost: assigned to the replica, taken and not committed, and on their way."""
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
    """One round for each fault, on `echo`: kills at uniform moments of a run, then a rerun that must come out right."""
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


def test_kills_lose_and_double_no_row(tmp_path: Path) -> None:
    table = rounds(tmp_path, ["driver", "actor"], seed=1, kills=1)
    assert any(kill["hit"] for row in table for kill in row["kills"])


def test_a_kill_inside_a_commit_is_found_out_where_the_record_comes_before_its_parts(tmp_path: Path) -> None:
    """And nowhere else: a commit whose steps are in the wrong order would not pass these tests."""
    in_order, reverse = tmp_path / "in-order", tmp_path / "reversed"
    for folder in (in_order, reverse):
        folder.mkdir()
    labelling = prepare(in_order, ECHO, ROWS)
    assert labelling.kill("driver", after_commits=4, inside=True).torn
    labelling.finish()
    check(labelling, ROWS, BAD)
    labelling = prepare(reverse, ECHO, ROWS, command=REVERSED)
    labelling.kill("driver", after_commits=4)
    with pytest.raises(AssertionError):
        finish_and_check(labelling)


def test_a_lost_node_costs_only_what_was_in_flight_on_it(tmp_path: Path) -> None:
    task, log = write_task(tmp_path)
    labelling = prepare(tmp_path, {**ECHO, "replicas": {"min": 2, "max": 2}}, ROWS, str(task))
    with ray_nodes(2) as labelling.cluster:
        kill = labelling.kill("worker-node", after_commits=4)
        assert kill.hit, labelling.log()
        labelling.finish()
    check(labelling, ROWS, BAD)
    again = answered(log) - ROWS
    print(json.dumps({**vars(kill), "labelled_again": again}))
    assert again <= 2 * IN_FLIGHT


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
    """60 word problems for the embedded teacher, 4 at a time, so that there is a middle to be killed in."""
    rows = [{**row, "id": f"r{i}"} for i, row in enumerate(train_rows(60, seed=1))]
    run = {
        "name": "faults",
        "output": str(folder / "out"),
        "task": "arithmetic",
        "corpus": {"train": write_jsonl(folder / "train.jsonl", rows)},
        "teacher": {"engine": "vllm", "model": str(teacher_folder), "sampling": {"max_tokens": 48},
                    "vllm": {"max_model_len": 512, "max_num_seqs": 4}},
        "labelling": {"commit_rows": 8, "commit_every_s": 0.5},
        "student": {"model": "none"},
    }  # fmt: skip
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(run))
    return Labelling(file, folder / "out", [sys.executable, "-m", "cluster"])


@pytest.mark.vllm
def test_a_run_goes_on_when_its_engine_is_killed(tmp_path: Path, teacher_folder: Path) -> None:
    labelling = on_vllm(tmp_path, teacher_folder)
    kill = labelling.kill("engine", after_commits=2)
    assert (kill.hit, kill.survived) == (True, True), labelling.log()
    assert set(check_complete(labelling, {f"r{i}" for i in range(60)})) <= {"unparsable", "truncated"}


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
        labelling.finish()
        reasons = check_complete(labelling, {f"r{i}" for i in range(60)})
        assert set(reasons) <= {"unparsable", "truncated"}
        print(json.dumps({**vars(kill), "rejects": reasons}))
