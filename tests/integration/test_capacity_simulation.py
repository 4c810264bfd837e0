"""The capacity simulation with a few nodes, one with the real teacher."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.full, pytest.mark.timeout(400)]
BATCH, LATENCY_S = 16, 0.5


def test_a_few_nodes_label_as_fast_as_they_answer(tmp_path: Path) -> None:
    size = f"--batch {BATCH} --latency {LATENCY_S} --seconds 20 --store-mib 300 --nodes 3 4 --per-process 1 2".split()
    command = [sys.executable, "-m", "tests.benchmarks.capacity_simulation", *size]
    path = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run(command, cwd=tmp_path, env=path, check=True)
    result = json.loads((tmp_path / "benchmarks-out/capacity_simulation.json").read_text())
    points = {row["nodes"]: row for row in result["rows"]}
    assert [(row["teacher"], row["processes"]) for row in result["rows"]] == [("echo", 1), ("stub", 3), ("stub", 2)]
    node, limit = points[1]["rows/s"], BATCH / LATENCY_S
    assert 0 < node <= 1.05 * limit
    for nodes in (3, 4):
        assert points[nodes]["offered rows/s"] == pytest.approx(nodes * node)
        assert 0.5 * points[nodes]["offered rows/s"] < points[nodes]["rows/s"] < 1.05 * nodes * limit
        assert 0 < points[nodes]["driver cores"] < 2
