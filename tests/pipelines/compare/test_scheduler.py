"""Cells as Ray tasks: what is heard of them when they end, and when they fail. Ray itself is made up."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from pipelines.compare.grid import Cell, Setting
from pipelines.compare.scheduler import CellJob, Failed, run_jobs
from pipelines.errors import StageFailedError, UserError
from pipelines.storage.manifest import Manifest, manifest_of
from tests.support.tiny_runs import make_run

NODE = "ab" * 28
LEAKS = (
    "training broke off: \x1b[2Jno room. The same command goes on;\nit lies in s3://KEY:SE%2FCRET@bucket/training/ab."
)


def task_error(cause: Exception) -> ray.exceptions.RayTaskError:
    """What ray.get raises for an exception in a task."""
    trace = f'Traceback ...\n  File "x.py"\n{type(cause).__name__}: {cause}\n'
    return ray.exceptions.RayTaskError("score_cell", trace, cause, ip="10.0.0.1")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A cluster of one node; `outcomes` by cell seed: what its task returns or raises."""
    found: dict[str, Any] = {"outcomes": {}, "options": None, "begun": []}

    class Remote:
        def remote(self, run: Any, labels_at: str, split: str) -> Any:
            found["begun"].append(run.training.seed)
            return run.training.seed

    def remote(**options: Any) -> Callable[[Any], Remote]:
        found["options"] = options
        return lambda function: Remote()

    def get(seed: int) -> Any:
        outcome = found["outcomes"][seed]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: NODE))
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}, {"Alive": False}])
    monkeypatch.setattr(ray, "remote", remote)
    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(ray, "wait", lambda references, timeout: (references[:1], references[1:]))
    return found


def scores() -> Manifest:
    return manifest_of("scores", {}, config={}, counts={}, timings_s={}, details={}, provenance={})


def test_one_that_fails_does_not_stop_the_others_and_says_why(tmp_path: Any, cluster: dict[str, Any]) -> None:
    done = scores()
    cluster["outcomes"] = {
        0: task_error(StageFailedError(LEAKS)),
        1: done,
        2: task_error(ValueError("no such key \x07in s3://K:S@bucket/x")),
        3: task_error(UserError("s3://K:S@bucket/labels", "no example\nis left", "Label more")),
    }
    runs = [make_run(tmp_path, "some/model", training={"workers": 1, "seed": seed}) for seed in range(4)]
    jobs = [CellJob(Cell("m", "finetune", 1.0, run.training.seed, Setting(1e-4, None)), run, "heldout") for run in runs]
    heard, watched = [], []
    run_jobs(
        jobs, "labels", lambda job, *said: heard.append((job.cell.seed, *said)), lambda some: watched.append(len(some))
    )
    *others, (_, users) = heard
    assert others == [
        (0, Failed("training broke off: [2Jno room. The same command goes on; it lies in s3://bucket/training/ab.")),
        (1, done),
        (2, Failed("ValueError: no such key in s3://bucket/x")),
    ]
    assert users.why == "s3://bucket/labels: no example is left. Label more"
    assert isinstance(users.error, UserError)
    assert users.error.value == "s3://bucket/labels", "what to do about it is told in the same words at the end"
    assert cluster["begun"] == [0, 1, 2, 3]
    assert watched == [1, 1, 1, 1], "one node trains one cell at a time"


def test_a_cell_runs_where_the_files_are_that_the_run_names(tmp_path: Any, cluster: dict[str, Any]) -> None:
    cluster["outcomes"] = {0: scores()}
    run = make_run(tmp_path, "some/model", training={"workers": 1})
    job = CellJob(Cell("m", "finetune", 1.0, 0, Setting(1e-4, None)), run, "heldout")
    run_jobs([job], "labels", lambda *said: None, lambda some: None)
    where = cluster["options"]["scheduling_strategy"]
    assert (where.node_id, where.soft) == (NODE, False)
    assert cluster["options"]["num_cpus"] == 0, "it only waits for its workers"
    run_jobs([], "labels", lambda *said: None, lambda some: None)
