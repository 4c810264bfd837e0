"""Cells on Ray: as many at a time as there are resources for, each in a task of its own that waits for its workers.

In: jobs. Out: for each its manifest, or why it failed; one failure does not stop the others:

    run_jobs(jobs, labels_at, heard, watched)   heard(job, manifest, "") or heard(job, None, "training broke off: ...")
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.artifacts import Manifest
from pipelines.compare.cells import Split, score_cell
from pipelines.compare.grid import Cell
from pipelines.config import RunConfig
from pipelines.errors import RaystillError, last_line
from pipelines.filesystems import shown
from pipelines.pages.words import one_line

_POLL_S = 0.5


@dataclass(frozen=True)
class Job:
    """A cell to be trained and scored on a split."""

    cell: Cell
    run: RunConfig
    split: Split


Heard = Callable[[Job, Manifest | None, str], None]


def parallel_cells(run: RunConfig, nodes: Sequence[dict[str, float]]) -> int:
    """How many cells the cluster trains at a time, at least 1. `nodes`: the resources of each.

    On GPUs as many as there are sets of workers; on CPUs one for each set of nodes, since a worker takes all cores of its node.
    """
    training = run.training
    if training.gpus_per_worker:
        gpus = sum(int(node.get("GPU", 0)) for node in nodes)
        return max(1, gpus // (training.workers * training.gpus_per_worker))
    return max(1, len(nodes) // training.workers)


def run_jobs(jobs: Sequence[Job], labels_at: str, heard: Heard, watched: Callable[[Sequence[Job]], None]) -> None:
    """Run all jobs, in their order as far as they begin. Ray is running. `watched` hears twice a second which ones are under way."""
    import ray

    if not jobs:
        return
    parallel = parallel_cells(jobs[0].run, [node["Resources"] for node in ray.nodes() if node["Alive"]])
    # No CPU of its own: it waits for workers, which have theirs. What a lost node takes with it goes on from its checkpoints.
    work = ray.remote(num_cpus=0, max_retries=2)(score_cell)
    waiting, running = deque(jobs), dict[Any, Job]()
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
                heard(job, None, _why(error))
            else:
                heard(job, manifest, "")


def _why(error: BaseException) -> str:
    """What a report and a terminal may show of it: on one line, without credentials and control characters."""
    cause = getattr(error, "cause", None)
    return one_line(shown(str(cause) if isinstance(cause, RaystillError) else last_line(error)))
