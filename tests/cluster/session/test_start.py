"""What a run asks for against what there is, on real Ray."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from tests.support.commands import raystill
from tests.support.corpora import write_jsonl

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


def test_a_gpu_that_the_driver_shows_and_ray_does_not_have_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA_VISIBLE_DEVICES hides GPUs from Ray and not from the driver's tool. Ray would wait for one for ever."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: Some Model (UUID: GPU-0)'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    rows = [{"id": "1", "input": "Anne has 4 apples and gives away 1. How many has she left?", "label": "4 - 1"}]
    run = {
        "name": "hidden",
        "output": str(tmp_path / "out"),
        "task": "arithmetic",
        "corpus": {"train": write_jsonl(tmp_path / "train.jsonl", rows)},
        "teacher": {"engine": "echo", "gpus_per_replica": 1},
        "student": {"model": "none"},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    result = raystill("label", str(tmp_path / "run.yaml"))
    assert result.returncode == 2, result.stderr[-2000:]
    assert "the run asks for 1 GPUs, there are 0" in result.stderr
    assert not (tmp_path / "out").exists()
