"""Replicas follow the backlog, from `min` to `max`."""

from pathlib import Path

import pytest

from pipelines.label.stage import label
from tests.support.run_files import label_run, word_rows

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
    teacher = {"latency_s": 0.05, "replicas": {"min": 1, "max": 3}, "vllm": {"max_num_seqs": 4}}
    manifest = label(label_run(tmp_path, word_rows(ROWS), teacher, task=str(tmp_path / "traced.py")))
    assert manifest.counts["accepted"] == ROWS
    pids = (tmp_path / "log").read_text().split()
    assert len(pids) == ROWS
    assert len(set(pids)) in (2, 3)
