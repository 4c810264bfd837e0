"""Cells side by side, each in a Ray task that waits for its own training workers.

Ray runs, restarts and places the tasks. What is left here is the number of cells at a time: the tasks use no CPU of their own, so that
Ray would start all of them, and workers of many trainings would wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.compare.cells import Split, score_cell
from pipelines.compare.grid import Cell
from pipelines.config import RunConfig
from pipelines.errors import RaystillError, UserError, last_line
from pipelines.reports.format import one_line
from pipelines.storage.filesystems import shown
from pipelines.storage.manifest import Manifest

_POLL_S = 0.5


@dataclass(frozen=True)
class CellJob:
    """A cell to train and score on a split."""

    cell: Cell
    run: RunConfig
    split: Split
    trained_on: str | None = None
    """Labels that a treatment has changed; None: the run's."""
    tokens_at: str | None = None
    """Folder that keeps token tables for all cells; None: each cell makes its own."""


@dataclass(frozen=True)
class CellFailure:
    """Why a cell has no scores."""

    reason: str
    """For reports and terminals: one line, without credentials and control characters."""
    error: UserError | None = None
    """Set if the run or its data are wrong, so that the same command would fail again."""


OnDone = Callable[[CellJob, Manifest | CellFailure], None]
OnPoll = Callable[[Sequence[CellJob]], None]


def parallel_cells(run: RunConfig, nodes: Sequence[Mapping[str, float]]) -> int:
    """Number of cells that the cluster trains at a time, at least 1.

    On GPUs: as many as there are sets of workers. On CPUs: one per set of nodes, since a worker uses all cores of its node.

    Args:
        nodes: the resources of each node.
    """
    training = run.training
    if training.gpus_per_worker:
        gpus = sum(int(node.get("GPU", 0)) for node in nodes)
        return max(1, gpus // (training.workers * training.gpus_per_worker))
    return max(1, len(nodes) // training.workers)


def run_jobs(jobs: Sequence[CellJob], labels_at: str, on_done: OnDone, on_poll: OnPoll) -> None:
    """Run all jobs, started in their order. A failure does not stop the others. Ray is running.

    Args:
        on_done: called for each finished job.
        on_poll: called about twice a second with the running jobs.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if not jobs:
        return
    parallel = parallel_cells(jobs[0].run, [node["Resources"] for node in ray.nodes() if node["Alive"]])
    # On this node, since others may lack the files that the run names by path (task, test set, validation). A task whose process dies is
    # repeated, and resumes.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    score = ray.remote(num_cpus=0, max_retries=2, scheduling_strategy=here)(score_cell)
    waiting, running = list(jobs), dict[Any, CellJob]()
    while waiting or running:
        while waiting and len(running) < parallel:
            job = waiting.pop(0)
            running[score.remote(job.run, labels_at, job.split, job.trained_on, job.tokens_at)] = job
        on_poll(list(running.values()))
        ready, _ = ray.wait(list(running), timeout=_POLL_S)
        for reference in ready:
            job = running.pop(reference)
            try:
                manifest = ray.get(reference)
            except ray.exceptions.RayError as error:
                on_done(job, cell_failure(error))
            else:
                on_done(job, manifest)


def cell_failure(error: BaseException) -> CellFailure:
    """A failure for the report: our own errors in full, also inside Ray's; any other by its last line."""
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, UserError):
        ours = UserError(*(_printable(part) for part in (cause.value, cause.rule, cause.remedy)))
        return CellFailure(str(ours), ours)
    return CellFailure(_printable(str(cause) if isinstance(cause, RaystillError) else last_line(error)))


def _printable(text: str) -> str:
    return one_line(shown(text))
