"""Labelling, killed at any moment: after the last rerun every row read has exactly one outcome."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.recipes.word_problems import train_rows
from tests.faults.counted import answered, write_task
from tests.faults.harness import COMMAND, REVERSED, Labelling, check
from tests.pipelines.test_corpus import write_jsonl

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

ROWS = 2400
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


def rounds(folder: Path, faults: list[str], seed: int, command: list[str] = COMMAND) -> list[dict[str, Any]]:
    """One round for each fault, on `echo`: two kills at uniform moments of a run, then a rerun that must come out right."""
    draw = random.Random(seed)
    (folder / "whole").mkdir()
    whole = prepare(folder / "whole", ECHO, ROWS, command=command)
    duration = whole.finish()
    check(whole, ROWS, BAD)
    table = []
    for number, fault in enumerate(faults):
        here = folder / f"round-{number}"
        here.mkdir()
        task, log = write_task(here)
        labelling = prepare(here, ECHO, ROWS, str(task), command)
        for _ in range(2):
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
    table = rounds(tmp_path, ["driver", "actor", "node"], seed=1)
    assert any(kill["hit"] for row in table for kill in row["kills"])


def test_a_record_before_its_parts_would_not_pass(tmp_path: Path) -> None:
    """The same kills find it out, so they would find out a commit whose steps are in the wrong order."""
    with pytest.raises(AssertionError):
        rounds(tmp_path, ["driver"] * 4, seed=1, command=REVERSED)


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_twenty_rounds_of_kills_lose_and_double_no_row(tmp_path: Path) -> None:
    kinds = ["driver", "actor", "reader", "raylet", "gcs", "node"]
    table = rounds(tmp_path, [kinds[i % len(kinds)] for i in range(20)], seed=2)
    hits = {kill["fault"] for row in table for kill in row["kills"] if kill["hit"]}
    assert hits == set(kinds)
    assert any(kill["torn"] for row in table for kill in row["kills"]), "no kill fell inside a commit"
