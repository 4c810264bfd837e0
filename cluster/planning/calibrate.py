"""`raystill plan --calibrate N`: label the first N rows with the run's teacher, measure, and discard the labels.

The label stage itself does it, into a temporary folder, with one replica. The engine's start is measured apart. Answers that were paid for
are kept in OUTPUT/labels/earlier, where labelling takes them over, and their tokens count in the budget of OUTPUT.
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from cluster.planning.estimate import by_labels
from cluster.planning.measured import labels_bytes
from cluster.planning.model import ReplicaThroughput
from pipelines.config import RunConfig
from pipelines.config.load import parse_run
from pipelines.errors import StageFailedError
from pipelines.runtime.cpus import usable_cpus
from pipelines.runtime.terminal import say
from pipelines.storage.store import Store

_FULL_BATCHES = 4


def calibrate(run: RunConfig, rows: int, *, verbose: bool = False) -> ReplicaThroughput:
    """What one replica of the run's teacher does on this machine, or on the cluster at RAY_ADDRESS.

    Raises:
        UserError: as labelling does.
        StageFailedError: no row was answered.
    """
    from cluster.session.command_log import command_log
    from cluster.session.start import ray_session
    from pipelines.label.stage import label

    with tempfile.TemporaryDirectory(prefix="raystill-calibrate-") as folder, _paid_answers_kept(run, folder) as kept:
        trial = calibration_run(run, rows, folder)
        where = "; raystill label takes over their answers" if kept else " into a temporary folder"
        say(f"calibrating: labelling {rows:,} rows{where}")
        with command_log("plan", verbose=verbose), ray_session(trial, ["label"], verbose=verbose):
            manifest = label(trial)
        source = _source(run, manifest.counts["read"])
        measured = by_labels(manifest, "calibration", source, labels_bytes(Store(folder)))
    if measured is None:
        raise StageFailedError("The calibration answered no row and measured nothing. Give it more rows.")
    return measured


@contextmanager
def _paid_answers_kept(run: RunConfig, folder: str) -> Iterator[bool]:
    """Start the folder's labels with what OUTPUT has used of the budget; give OUTPUT the answers of the block, also after an error.

    Yields:
        True if the teacher's requests are paid and labelling takes over their answers.
    """
    from pipelines.label.output.parts import TEXTS_FOLDER
    from pipelines.label.output.spending import FOLDER as SPENT
    from pipelines.label.stored.sources import EARLIER_FOLDER
    from pipelines.label.teachers.registry import teacher_class

    if not teacher_class(run.teacher.engine).meters_budget:
        yield False
        return
    labels, trial, takes_over = (
        Store(run.output).child("labels"),
        Store(folder).child("labels"),
        run.labelling.reuse != [],
    )
    before = labels.files(SPENT, ".json")
    for name in before:
        trial.write(name, labels.read(name))
    try:
        yield takes_over
    finally:
        for name in set(trial.files(SPENT, ".json")) - set(before):
            labels.write(name, trial.read(name))
        for name in trial.files(TEXTS_FOLDER, ".parquet") if takes_over else ():
            labels.write(f"{EARLIER_FOLDER}/{uuid.uuid4().hex}.parquet", trial.read(name))


def calibration_run(run: RunConfig, rows: int, folder: str) -> RunConfig:
    """The run over its first `rows` training rows alone, with one replica and no limit on rejects."""
    tree = run.model_dump()
    tree["output"] = folder
    tree["corpus"] |= {"limit": rows, "test": None, "validation": 0.0}
    tree["teacher"]["replicas"] = {"min": 1, "max": 1}
    tree["teacher"]["remote"]["batch"] = False
    tree["labelling"] |= {"reuse": [], "max_reject_share": 1.0, "max_engine_error_share": 1.0, "shards": 1}
    return parse_run(tree, "calibration")


def _source(run: RunConfig, rows: int) -> str:
    """What was measured, and why it may be too low."""
    teacher = run.teacher
    gpus = teacher.gpus_per_replica
    hardware = f"{gpus} GPU{'s' * (gpus > 1)}" if gpus else f"all {usable_cpus()} CPU cores of this machine"
    text = f"calibration: {rows:,} rows by one replica on {hardware}"
    if not gpus and teacher.replicas.max > 1:
        text += " (replicas on one machine share its cores)"
    batch = teacher.vllm.max_num_seqs
    if teacher.engine == "vllm" and rows * teacher.sampling.n < _FULL_BATCHES * batch:
        text += f" (rather too slow: fewer than {_FULL_BATCHES} batches of max_num_seqs {batch})"
    return text
