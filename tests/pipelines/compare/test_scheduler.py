from pathlib import Path
from typing import Any

import pytest

from pipelines.compare.grid import Cell, Setting
from pipelines.compare.scheduler import CellFailure, CellJob, run_jobs
from pipelines.errors import StageFailedError, UserError
from pipelines.storage.manifest import manifest_of
from tests.support.fake_ray_tasks import NODE, FakeRay, task_error
from tests.support.tiny_runs import make_run

LEAKS = "training broke off: \x1b[2Jno room. Run it again;\nit lies in s3://KEY:SE%2FCRET@bucket/training/ab."


def job(tmp_path: Path, seed: int) -> CellJob:
    run = make_run(tmp_path, "some/model", training={"workers": 1, "seed": seed})
    return CellJob(Cell("m", "finetune", 1.0, seed, Setting(1e-4, None)), run, "heldout")


def test_a_failed_cell_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = manifest_of("scores", {}, config={}, counts={}, timings_s={}, details={}, provenance={})
    cluster = FakeRay(monkeypatch)
    cluster.outcomes = {
        0: task_error(StageFailedError(LEAKS)),
        1: done,
        2: task_error(ValueError("no such key \x07in s3://K:S@bucket/x")),
        3: task_error(UserError("s3://K:S@bucket/labels", "no example\nis left", "Label more")),
    }
    outcomes, running = dict[int, Any](), list[int]()
    run_jobs(
        [job(tmp_path, seed) for seed in range(4)],
        "labels",
        lambda job, outcome: outcomes.update({job.cell.seed: outcome}),
        lambda some: running.append(len(some)),
    )
    users = outcomes.pop(3)
    assert outcomes == {
        0: CellFailure("training broke off: [2Jno room. Run it again; it lies in s3://bucket/training/ab."),
        1: done,
        2: CellFailure("ValueError: no such key in s3://bucket/x"),
    }
    assert users.reason == "s3://bucket/labels: no example is left. Label more"
    assert isinstance(users.error, UserError)
    assert (cluster.started, running) == ([0, 1, 2, 3], [1, 1, 1, 1]), "one node trains one cell at a time"
    # Cells run on the driver's node, which has the files that the run names, and need no CPU of their own.
    strategy = cluster.options["scheduling_strategy"]
    assert (strategy.node_id, strategy.soft, cluster.options["num_cpus"]) == (NODE, False, 0)
