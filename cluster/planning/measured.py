"""Durations and rates of a run as earlier artifacts in OUTPUT measured them."""

from __future__ import annotations

from cluster.planning.estimate import by_labels, by_reference
from cluster.planning.local_models import model_config
from cluster.planning.model import ReplicaThroughput, StageEstimate
from pipelines.config import RunConfig
from pipelines.config.student import StudentConfig
from pipelines.data.heldout import validation_share
from pipelines.storage.manifest import Manifest, read_manifest
from pipelines.storage.store import Store
from pipelines.tasks import Task

_SAME_TRAINING = ("workers", "gpus_per_worker", "tokens_per_batch", "precision", "zero_stage")
"""Settings of `training` that an earlier training must share for its duration to be scaled."""


def known_throughput(run: RunConfig, task: Task) -> ReplicaThroughput:
    """The rate of one replica: from finished labels of the same teacher, else scaled from a reference, else unknown."""
    from pipelines.label.identity import label_identity

    output = Store(run.output)
    manifest = read_manifest(output.child("labels"), "labels")
    if manifest:
        mine, theirs = label_identity(run)["teacher"], manifest.identity.get("teacher", {})
        gpus = manifest.config["teacher"]["gpus_per_replica"]
        same = all(mine[key] == theirs.get(key) for key in ("engine", "model", "outputs", "prompt", "sampling"))
        if same and gpus == run.teacher.gpus_per_replica:
            source = f"the labels of the same teacher in {output.shown()}, of {manifest.created}"
            known = by_labels(manifest, "labels", source, labels_bytes(output))
            if known:
                return known
    config = model_config(run.teacher.model) if run.teacher.engine == "vllm" else None
    return by_reference(config, run.teacher, task.name)


def labels_bytes(output: Store) -> int:
    """Size of the accepted rows' Parquet files in OUTPUT."""
    labels = output.child("labels")
    infos = labels.fs.get_file_info([labels.path(name) for name in labels.files("data", ".parquet")])
    return sum(info.size for info in infos)


def train_estimate(run: RunConfig, rows: int, *, reused: bool) -> StageEstimate:
    """Scaled from a student with the same settings, as if every row were accepted."""
    if reused:
        return StageEstimate(seconds=0.0, gpu_hours=0.0, source="the student is reused")
    manifest = read_manifest(Store(run.output).child("student"), "student")
    if manifest is None or not _trained_alike(run, manifest):
        source = "unknown: no student with these settings was trained here"
        return StageEstimate(seconds=None, gpu_hours=None, source=source)
    if run.training.steps is not None:
        factor = run.training.steps / manifest.details["training"]["steps"]
        source = f"the training of {manifest.created}, by steps"
    else:
        examples = rows * (1 - validation_share(run.corpus.validation)) * run.training.fraction
        factor = examples * (run.training.epochs or 0.0) / _seen(manifest)
        source = f"the training of {manifest.created}, by examples x epochs, as if every row were accepted"
    seconds = manifest.timings_s["train"] * factor
    gpus = run.training.workers * run.training.gpus_per_worker
    return StageEstimate(seconds=seconds, gpu_hours=_gpu_hours(seconds, gpus), source=source)


def _seen(student: Manifest) -> float:
    """Examples of all steps of a training. An example counts once for each pass."""
    seen: float | None = student.details["training"].get("examples_seen")
    return seen or student.counts["train_examples"] * student.config["training"]["epochs"]


def evaluate_estimate(run: RunConfig, heldout: int, *, reused: bool) -> StageEstimate:
    """Scaled from a report with the same settings. `heldout`: rows that are scored."""
    if reused:
        return StageEstimate(seconds=0.0, gpu_hours=0.0, source="the report is reused")
    manifest = read_manifest(Store(run.output).child("report"), "report")
    same = manifest is not None and all(
        manifest.config[key] == getattr(run, key).model_dump(mode="json") for key in ("student", "evaluation")
    )
    if manifest is None or not same or not manifest.counts["scored"] or not heldout:
        source = "unknown: no student with these settings was evaluated here"
        return StageEstimate(seconds=None, gpu_hours=None, source=source)
    seconds = manifest.timings_s["total"] * heldout / manifest.counts["scored"]
    gpus = run.evaluation.workers * run.evaluation.gpus_per_worker
    source = f"the evaluation of {manifest.created}, by examples"
    return StageEstimate(seconds=seconds, gpu_hours=_gpu_hours(seconds, gpus), source=source)


def _trained_alike(run: RunConfig, manifest: Manifest) -> bool:
    training = manifest.config["training"]
    same_student = StudentConfig.model_validate(manifest.config["student"]) == run.student
    return same_student and all(training[key] == getattr(run.training, key) for key in _SAME_TRAINING)


def _gpu_hours(seconds: float, gpus: int) -> float | None:
    return seconds * gpus / 3600 if gpus else None
