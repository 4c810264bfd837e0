"""`raystill plan --calibrate N`: the first N rows are labelled for real, by the run's own teacher, and the labels are thrown away.

They go through the label stage itself, into a temporary folder, with one replica. The engine's start is measured apart.
"""

from __future__ import annotations

import sys
import tempfile

from cluster.planning.estimate import Throughput, by_labels
from pipelines.config import RunConfig
from pipelines.config.load import parse_run
from pipelines.errors import StageFailedError
from pipelines.runtime.cpus import usable_cpus
from pipelines.storage.store import Store

_FULL_BATCHES = 4


def calibrate(run: RunConfig, rows: int, *, verbose: bool = False) -> Throughput:
    """What one replica of the run's teacher does on this machine, or on the cluster that RAY_ADDRESS names.

    Raises:
        UserError: as labelling does.
        StageFailedError: no row could be answered.
    """
    from cluster.session.start import ray_session
    from pipelines.label.stage import label

    with tempfile.TemporaryDirectory(prefix="raystill-calibrate-") as folder:
        trial = calibration_run(run, rows, folder)
        print(f"calibrating: {rows:,} rows are labelled, into a temporary folder", file=sys.stderr, flush=True)
        with ray_session(trial, ["label"], verbose=verbose):
            manifest = label(trial)
        measured = by_labels(
            manifest.model_dump(), "calibration", _source(run, manifest.counts["read"]), labels_bytes(Store(folder))
        )
    if measured is None:
        raise StageFailedError("the calibration answered no row, so that nothing was measured. Give it more rows.")
    return measured


def calibration_run(run: RunConfig, rows: int, folder: str) -> RunConfig:
    """The run over its first `rows` training rows alone, with one replica, that ends no matter how many are rejected."""
    tree = run.model_dump()
    tree["output"] = folder
    tree["corpus"] |= {"limit": rows, "test": None, "validation": 0.0}
    tree["teacher"]["replicas"] = {"min": 1, "max": 1}
    tree["labelling"] |= {"max_reject_share": 1.0, "max_engine_error_share": 1.0}
    return parse_run(tree, "calibration")


def labels_bytes(output: Store) -> int:
    """Bytes of the accepted rows' Parquet files below OUTPUT."""
    labels = output.child("labels")
    infos = labels.fs.get_file_info([labels.path(name) for name in labels.files("data", ".parquet")])
    return sum(info.size for info in infos)


def _source(run: RunConfig, rows: int) -> str:
    """What was measured, and what makes it less than the truth."""
    teacher = run.teacher
    gpus = teacher.gpus_per_replica
    hardware = f"{gpus} GPU{'s' * (gpus > 1)}" if gpus else f"all {usable_cpus()} CPU cores of this machine"
    text = f"calibration: {rows:,} rows by one replica on {hardware}"
    if not gpus and teacher.replicas.max > 1:
        text += " (several replicas on one machine share them)"
    batch = teacher.vllm.max_num_seqs
    if teacher.engine == "vllm" and rows * teacher.sampling.n < _FULL_BATCHES * batch:
        text += f" (too slow rather than too fast: they do not fill {_FULL_BATCHES} batches of max_num_seqs {batch})"
    return text
