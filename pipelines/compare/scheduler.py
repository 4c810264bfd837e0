"""Cells on Ray: as many at a time as there are resources for, each in a task of its own that waits for its workers.

In: jobs. Out: for each its manifest, or why it failed; one failure does not stop the others:

    run_jobs(jobs, labels_at, heard, watched)   heard(job, manifest) or heard(job, Failed("training broke off: ..."))
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
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
    """A cell to be trained and scored on a split."""

    cell: Cell
    run: RunConfig
    split: Split


@dataclass(frozen=True)
class Failed:
    """A cell that has no scores."""

    why: str
    """What a report and a terminal may show: on one line, without credentials and control characters."""
    error: UserError | None = None
    """Where the run or its data are at fault, so that the same command would fail again."""


Heard = Callable[[CellJob, Manifest | Failed], None]


def parallel_cells(run: RunConfig, nodes: Sequence[dict[str, float]]) -> int:
    """How many cells the cluster trains at a time, at least 1. `nodes`: the resources of each.

    On GPUs as many as there are sets of workers; on CPUs one for each set of nodes, since a worker takes all cores of its node.
    """
    training = run.training
    if training.gpus_per_worker:
        gpus = sum(int(node.get("GPU", 0)) for node in nodes)
        return max(1, gpus // (training.workers * training.gpus_per_worker))
    return max(1, len(nodes) // training.workers)


def run_jobs(
    jobs: Sequence[CellJob], labels_at: str, heard: Heard, watched: Callable[[Sequence[CellJob]], None]
) -> None:
    """Run all jobs, in their order as far as they begin. Ray is running. `watched` hears twice a second which ones are under way."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if not jobs:
        return
    parallel = parallel_cells(jobs[0].run, [node["Resources"] for node in ray.nodes() if node["Alive"]])
    # No CPU of its own: it waits for workers, which have theirs. It opens what the run names by path (task, test set, validation), and
    # other nodes need not have these: so it stays where the command runs. A process that dies is begun anew, and goes on.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    work = ray.remote(num_cpus=0, max_retries=2, scheduling_strategy=here)(score_cell)
    waiting, running = deque(jobs), dict[Any, CellJob]()
    while waiting or running:
        while waiting and len(running) < parallel:
            job = waiting.popleft()
            running[work.remote(job.run, labels_at, job.split)] = job
        watched(list(running.values()))
        ready, _ = ray.wait(list(running), timeout=_POLL_S)
        for reference in ready:
            job = running.pop(reference)
            try:
                manifest = ray.get(reference)
            except ray.exceptions.RayError as error:
                heard(job, failed(error))
            else:
                heard(job, manifest)


def failed(error: BaseException) -> Failed:
    """What is told of an error: one of ours, also as Ray's wraps it, in full, any other by its last line."""
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, UserError):
        ours = UserError(*(_told(part) for part in (cause.value, cause.rule, cause.remedy)))
        return Failed(str(ours), ours)
    return Failed(_told(str(cause) if isinstance(cause, RaystillError) else last_line(error)))


def _told(text: str) -> str:
    return one_line(shown(text))
