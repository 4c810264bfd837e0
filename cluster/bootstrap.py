"""Ray for one command: the cluster that RAY_ADDRESS names, or one of our own that ends with the command.

Before anything is started, what the run asks for is compared with what is there.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from cluster.environment import ray_address
from pipelines.config import RunConfig
from pipelines.errors import UserError

_MANY_SLOTS = 8
_SEVERAL = 2


@dataclass(frozen=True)
class Wanted:
    """What one part of a run needs at a time, and the key that says so."""

    key: str
    cpus: int
    gpus: int


def wanted_by(run: RunConfig, stage: str) -> Wanted:
    """What a stage of the run needs at the least."""
    if stage == "label":
        replicas, gpus = run.teacher.replicas.min, run.teacher.gpus_per_replica
        return Wanted("teacher.replicas.min x gpus_per_replica", replicas, replicas * gpus)
    if stage == "train":
        workers = run.training.min_workers or run.training.workers
        key = "training.min_workers" if run.training.min_workers else "training.workers"
        return Wanted(key, workers, workers * run.training.gpus_per_worker)
    if stage == "evaluate":
        evaluation = run.evaluation
        return Wanted("evaluation.workers", evaluation.workers, evaluation.workers * evaluation.gpus_per_worker)
    replicas = run.serving.replicas.min
    return Wanted("serving.replicas.min", replicas, replicas * run.serving.gpus_per_replica)


def check_resources(wanted: Wanted, there: Mapping[str, float]) -> None:
    """Raises UserError where more is wanted than there is. `there`: CPU and GPU of this machine or of the cluster."""
    for kind, count in (("GPU", wanted.gpus), ("CPU", wanted.cpus)):
        available = int(there.get(kind, 0))
        if count > available:
            remedy = (
                "Set gpus_per_replica / gpus_per_worker to 0 to run on CPUs."
                if kind == "GPU" and not available
                else "Lower it."
            )
            raise UserError(wanted.key, f"the run asks for {count} {kind}s, there are {available}", remedy)


def machine_resources() -> dict[str, float]:
    """CPUs that this process may use, and GPUs that the driver shows."""
    return {"CPU": float(len(os.sched_getaffinity(0))), "GPU": float(_gpus())}


@contextmanager
def ray_session(run: RunConfig, stages: list[str], *, verbose: bool = False) -> Iterator[None]:
    """Ray, running, with what the stages need. Raises UserError where that is not there."""
    address = ray_address()
    if address is None:
        for stage in stages:
            check_resources(wanted_by(run, stage), machine_resources())
    import ray

    level = logging.INFO if verbose else logging.ERROR
    if address is None:
        # Logical CPUs are Ray's slots, not cores: driver, readers and actors that live side by side need one each, and a pipeline
        # that finds none left waits for ever.
        slots = max(_MANY_SLOTS, 4 * int(machine_resources()["CPU"]))
        ray.init(address="local", num_cpus=slots, include_dashboard=False, log_to_driver=verbose, logging_level=level)
    else:
        ray.init(address=address, log_to_driver=verbose, logging_level=level)
    try:
        # Ray may have fewer GPUs than the machine (CUDA_VISIBLE_DEVICES), and would wait for ever for more.
        for stage in stages:
            check_resources(wanted_by(run, stage), ray.cluster_resources())
        _quiet(stages, verbose)
        if address is not None:
            _look_at_nodes(run, verbose)
        yield
    finally:
        ray.shutdown()


def _look_at_nodes(run: RunConfig, verbose: bool) -> None:
    """Refuse a cluster of several nodes on which the run would break. Raises UserError, after a table of the nodes on stderr."""
    import ray
    from rich.console import Console

    from cluster.preflight import nodes_table, preflight, refuse

    if sum(node["Alive"] for node in ray.nodes()) < _SEVERAL:
        return
    nodes = preflight(run.output)
    bad = [node for node in nodes if node.problems]
    if bad or verbose:
        Console(stderr=True, width=None if sys.stderr.isatty() else 140).print(nodes_table(nodes))
    else:
        ray_versions = ", ".join(sorted({node.look.ray for node in nodes if node.look}))
        print(
            f"{len(nodes):,} nodes answer: Ray {ray_versions}, the same code, the output is seen and written by each",
            file=sys.stderr,
        )
    refuse(nodes)


def _quiet(stages: list[str], verbose: bool) -> None:
    """Ray Data's and Serve's own bars and logs would write over our progress."""
    import ray

    if "serve" in stages:
        import ray.serve  # which sets the level of its log when it is imported

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    if not verbose:
        for name in ("ray.data", "ray.train", "ray.serve"):
            logging.getLogger(name).setLevel(logging.ERROR)


def _gpus() -> int:
    import shutil
    import subprocess

    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 0
    listed = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False).stdout
    return sum(line.startswith("GPU ") for line in listed.splitlines())
