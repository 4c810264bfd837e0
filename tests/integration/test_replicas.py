"""Replicas follow the backlog, from `min` to `max`."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.config.load import parse_run
from pipelines.label.stage import label
from pipelines.recipes.word_problems import train_rows
from tests.support.corpora import write_jsonl

pytestmark = pytest.mark.integration

ROWS = 1500
SOURCE = """
import os

from pipelines.tasks.arithmetic import Arithmetic


class Traced(Arithmetic):
    name = "traced"

    def parse(self, text, example):
        with open({log!r}, "a") as log:
            log.write(f"{{os.getpid()}}\\n")
        return super().parse(text, example)
"""


def test_a_backlog_starts_replicas_up_to_the_maximum(ray_here: None, tmp_path: Path) -> None:
    (tmp_path / "traced.py").write_text(SOURCE.format(log=str(tmp_path / "log")))
    corpus = [{**row, "id": f"r{i}"} for i, row in enumerate(train_rows(ROWS, seed=1))]
    manifest = label(parse_run({
        "name": "replicas",
        "output": str(tmp_path / "out"),
        "task": str(tmp_path / "traced.py"),
        "corpus": {"train": write_jsonl(tmp_path / "train.jsonl", corpus)},
        "teacher": {"engine": "echo", "latency_s": 0.05, "replicas": {"min": 1, "max": 3},
                    "vllm": {"max_num_seqs": 4}},
        "student": {"model": "none"},
    }))  # fmt: skip
    assert manifest.counts["accepted"] == ROWS
    pids = (tmp_path / "log").read_text().split()
    assert len(pids) == ROWS
    assert len(set(pids)) in (2, 3)
